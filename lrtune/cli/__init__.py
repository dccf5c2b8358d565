"""The command line `lrtune`: `commands.py` has the commands, `terminal.py` and `watch.py` what they show."""
