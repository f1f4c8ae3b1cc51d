"""Addresses of OpenAI's CLIPs. Apart from weights.py, so that fetching them needs no torch."""
from pathlib import Path

BASE = "https://openaipublic.azureedge.net/clip/models/"
MODELS = {  # {name: address}, those with a vision transformer (OpenAI CLIP, clip.py)
    "ViT-B/16": f"{BASE}5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-B/32": f"{BASE}40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-L/14": f"{BASE}b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": f"{BASE}3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt"}


def sha256_of(url: str) -> str:
    """Extract the SHA-256 from an address: OpenAI files each model under it."""
    return url.split("/")[-2]


def how_to_fetch(path: str | Path) -> str:
    """Name the command that fetches ``path``: the model with a file of that name, else ViT-B/16."""
    name = next((name for name, url in MODELS.items() if url.endswith(f"/{Path(path).name}")), "ViT-B/16")
    return f"`python -m data.prepare clip --model {name} --out {path}` fetches them from {MODELS[name]}"
