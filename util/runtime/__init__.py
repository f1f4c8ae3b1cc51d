"""How commands run: processes, devices, errors, progress. Importing it is the first thing that a command does."""
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # before cv2 is imported: our own messages name the file

_command = sys.argv[0] if sys.argv else ""
if _command == "-m" or Path(_command).resolve().parent == Path(__file__).resolve().parents[2]:
    # A command of this project is being imported. Ctrl-C just ends it: interrupted imports print tracebacks.
    # util/runtime/errors.py's run_main takes over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
