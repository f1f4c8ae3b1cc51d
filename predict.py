"""Find named things in images: masks, a picture with a legend, and JSON for each image. docs/predict.md explains it.

    python predict.py IMAGE|FOLDER|GLOB... --names star key "traffic light" [--weights FILE] [--out DIR]
    python predict.py PHOTO... --names cat sofa --model naclip       CLIP alone, for photographs

Without --weights the shipped model of Shapes-5i is used.
"""
import sys

from model.clip.errors import WeightsError
from util.predict.command import from_command_line
from util.runtime.errors import run_main
from util.runtime.stop import StopRequest


def main() -> int:
    request = from_command_line(sys.argv[1:], __doc__)
    stop = StopRequest()
    with stop:  # an import that is cut off complains in its own words
        from util.predict.run import predict_files  # torch takes seconds to import: mistakes above are told before
    return predict_files(request, stop)


if __name__ == "__main__":
    run_main(main, WeightsError)
