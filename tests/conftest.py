"""For every test: Ctrl-C works, also where the run was started in the background and so told to ignore it."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited, and passed on to whatever a test starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
