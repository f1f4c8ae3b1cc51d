"""Serves the page, and nothing else: in a folder of its own, without telemetry and without calls to other machines."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from util.predict.segmenter import Segmenter
from util.runtime.errors import UserError

MOST_MB = 20            # of an upload
KEPT = 3600             # s that uploads and results are kept
WAITING = 16            # requests that may wait; the next is turned away


@contextmanager
def serve(segmenter: Segmenter, host: str, port: int, shipped: bool = False) -> Iterator[str]:
    """Serve the page within the block; gives its address. shipped: whether the model is the one of Shapes-5i.

    Uploads and results lie in a temporary folder, which is gone afterwards. Raises UserError for a port or an address
    that cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="esda-page-") as folder:
        for name in [name for name in os.environ if name.startswith("GRADIO_")]:
            del os.environ[name]  # they could open folders, or the page to the world
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1",
                       "HF_HUB_DISABLE_TELEMETRY": "1"}
        from util.page.page import page  # imports gradio, which reads the environment then
        blocks = page(segmenter, Path(folder), shipped, KEPT)
        try:
            blocks.queue(max_size=WAITING, default_concurrency_limit=1)
            _, address, _ = blocks.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False,
                max_file_size=MOST_MB << 20, footer_links=[], run_history=False, enable_monitoring=False,
                mcp_server=False, ssr_mode=False)
        except OSError as error:  # gradio's own, in any case
            raise UserError(f"{host}, port {port}: the page cannot be served there ({error.strerror or 'it is taken'});"
                            f" choose another with --port or --host") from None
        try:
            yield address
        finally:
            blocks.close(verbose=False)
