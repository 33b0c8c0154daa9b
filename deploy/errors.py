"""The one error of the command line: a sentence for the user. Knows no command."""


class StartError(Exception):
    """Something stops the start, with exit status 2. The message is one sentence: what to do."""
