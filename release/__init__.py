"""Release: a wheel and an sdist whose bytes depend on the commit alone, and a list of what they bring along."""
