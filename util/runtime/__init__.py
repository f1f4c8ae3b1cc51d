"""Process plumbing: errors, signals, devices, processes, progress."""
import os

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # before cv2 is imported: our own messages name the file
