"""`python -m raybench COMMAND ...`, the same as the console command."""

from raybench.cli import console

console()
