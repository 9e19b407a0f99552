"""Benchmarks of tokentrace: one file per figure, `a_` to `i_`, each against a baseline that runs in turns with it.

`make bench` runs them all and prints a table. `workload` makes the messages, `baselines` holds what a competent
engineer would write without tokentrace, `measure` turns repeats into medians, and `probes` are the processes that are
measured.
"""
