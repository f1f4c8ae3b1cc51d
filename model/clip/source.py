"""Where OpenAI's CLIPs come from. Apart from weights.py, so that fetching them needs no torch."""
from pathlib import Path

BASE = "https://openaipublic.azureedge.net/clip/models/"
MODELS = {  # {name: address}, those with a vision transformer (OpenAI CLIP, clip.py)
    "ViT-B/16": f"{BASE}5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-B/32": f"{BASE}40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-L/14": f"{BASE}b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": f"{BASE}3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt"}
URL = MODELS["ViT-B/16"]


def sha256_of(url: str) -> str:
    """OpenAI files each model under the hash of its contents."""
    return url.split("/")[-2]


def how_to_fetch(path: str | Path) -> str:
    """The command that makes ``path``, and the one by hand: of the model with a file of that name, else ViT-B/16."""
    name = next((name for name, url in MODELS.items() if url.endswith(f"/{Path(path).name}")), "ViT-B/16")
    option = "" if MODELS[name] == URL else f"--model {name} "
    return (f"`python -m data.prepare clip {option}--out {path}` fetches and checks them, or by hand: curl -L -o "
            f"{path} {MODELS[name]}")
