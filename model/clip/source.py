"""Where OpenAI's CLIP ViT-B/16 comes from. Apart from clip_weights.py, so that fetching it needs no torch."""
URL = ("https://openaipublic.azureedge.net/clip/models/"
       "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt")
SHA256 = URL.split("/")[-2]  # OpenAI files each model under the hash of its contents
