"""CLIP: both encoders and the temperature, for pretraining and for the baselines."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer


class CLIP(nn.Module):
    """Joint embedding of images and texts, of D dimensions (Radford 2021)."""

    def __init__(self, visual: VisionTransformer, text: TextEncoder):
        super().__init__()
        self.visual = visual
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's starting temperature, section 2.5

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode (B, 3, S, S) normalised images to (B, D) unit vectors."""
        return F.normalize(self.visual.project(self.visual(images)[:, 0]), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encode (K, L) token ids to (K, D) unit vectors."""
        return F.normalize(self.text(ids).cls, dim=-1)

    def state_dict_openai(self) -> dict[str, Tensor]:
        """Return the state_dict under OpenAI's names, with the three buffers of its published archives."""
        state = {f"visual.{name}": tensor for name, tensor in self.visual.state_dict().items()}
        state.update(self.text.state_dict())
        state["logit_scale"] = self.logit_scale.detach()
        state["input_resolution"] = torch.tensor(self.visual.side)
        state["context_length"] = torch.tensor(self.text.context_length)
        state["vocab_size"] = torch.tensor(self.text.token_embedding.num_embeddings)
        return state
