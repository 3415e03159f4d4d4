"""What every test may rely on, whoever runs them."""

import signal

# A shell that runs a command in the background has it ignore Ctrl-C, and all of its children too: tests that press
# Ctrl-C would wait for an end that does not come.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
