"""lrtune: find the learning rate, schedule and decay a training job should use, and prove it.

The package is the library and the client; the server (`app/`) and the workers (`worker/`) stand beside it.
"""

__version__ = "0.1.0"
