"""`tokentrace completion`."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")
#: Variable by which the script in the shell asks for completions, as click derives it from the program's name.
VARIABLE = "_TOKENTRACE_COMPLETE"


HELP = """Print the script that completes commands, options and files in a shell.

\b
bash: eval "$(tokentrace completion bash)"   in ~/.bashrc
zsh:  eval "$(tokentrace completion zsh)"    in ~/.zshrc
fish: tokentrace completion fish > ~/.config/fish/completions/tokentrace.fish
"""


@click.command(help=HELP)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script of a shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    # The script only needs the names; what completes is asked each time.
    click.echo(kind(ctx.find_root().command, {}, "tokentrace", VARIABLE).source())
