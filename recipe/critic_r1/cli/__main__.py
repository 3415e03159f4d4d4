"""`python -m recipe.critic_r1.cli` is the `critic-r1` command."""

from recipe.critic_r1.cli import app

app()
