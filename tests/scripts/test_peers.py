"""Other papers' heads through the real scripts: training, a checkpoint's test, prediction, and weights of their own."""
import pytest
import torch
from predicting import checkpoint_of, write_scene
from runs import complains, in_process, results, run_folder, train

from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer
from model.peers.clipseg import CLIPSeg
from util.predict.segmenter import Segmenter
from util.run import checkpoint

KINDS = ["lseg", "clipseg", "zegclip", "catseg"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_the_test_of_its_checkpoint_and_all_classes_at_once(kind, checked_options, tmp_path):
    config = f"config/shapes/{kind}.yaml"
    whole = train(checked_options, tmp_path / "train", config=config)
    first = results(whole)
    assert first["arch"] == kind and 0 <= first["miou"] <= 100 and first["parameters"]["trainable"] > 1000
    weights = f"weights={whole / 'checkpoints/last.pt'}"
    for name, more in (("again", ["eval.batch_size=3"]), ("all", ["eval.protocol=generalised"])):
        done = in_process("test.py", "--config", config, *checked_options, f"exp={tmp_path / name}", weights, *more)
        assert done.returncode == 0, done.stderr
    again, every = (results(run_folder(tmp_path / name, kind)) for name in ("again", "all"))
    assert again["miou"] == pytest.approx(first["miou"], abs=1e-3)
    assert again["name_auc"] == pytest.approx(first["name_auc"], abs=1e-3)
    assert every["protocol"] == "generalised" and 0 <= every["hiou"] <= 100


@pytest.mark.parametrize("kind", KINDS)
def test_predict_takes_their_checkpoints(kind, tiny_clip, tmp_path):
    segmenter = Segmenter.load(checkpoint_of(kind, tiny_clip, tmp_path / "best.pt"), device="cpu")
    result = segmenter(str(write_scene(tmp_path / "a.png")), ["star", "key"], threshold=0)
    assert segmenter.about["kind"] == kind and result.masks.shape[0] == 2


@pytest.fixture(scope="module")
def clip_of_twelve(tmp_path_factory):
    """A CLIP with ViT-B/16's number of blocks and little else."""
    torch.manual_seed(5)
    clip = CLIP(VisionTransformer(32, 8, 64, 12, 1, 12), TextEncoder(49408, 16, 64, 1, 1, 12))
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save({name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in clip.state_dict_openai().items()}, path)
    return path


def authors_file(path, width=64, **more):
    """A file in the layout of CLIPSeg's rd64-uni, with random numbers: the decoder, a spare layer, perhaps CLIP."""
    torch.manual_seed(6)
    hidden = {"self_attn.in_proj_weight": (3 * width, width), "self_attn.in_proj_bias": (3 * width,),
              "self_attn.out_proj.weight": (width, width), "self_attn.out_proj.bias": (width,),
              "linear1.weight": (2048, width), "linear1.bias": (2048,), "linear2.weight": (width, 2048),
              "linear2.bias": (width,), "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,),
              "norm2.bias": (width,)}
    shapes = {"reduce.weight": (width, 64), "reduce.bias": (width,), "film_mul.weight": (width, 12),
              "film_mul.bias": (width,), "film_add.weight": (width, 12), "film_add.bias": (width,),
              "trans_conv.weight": (width, 1, 8, 8), "trans_conv.bias": (1,), "model.positional_embedding": (5, 64)}
    for i in range(3):
        shapes |= {f"reduces.{i}.weight": (width, 64), f"reduces.{i}.bias": (width,)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in hidden.items()}
    state = {name: torch.randn(shape) for name, shape in shapes.items()} | more
    torch.save(state, path)
    return state


def test_clipsegs_own_weights_become_a_checkpoint(clip_of_twelve, tmp_path):
    state = authors_file(tmp_path / "rd64-uni.pth")
    out = tmp_path / "clipseg.safetensors"
    done = in_process("convert.py", "--clip", clip_of_twelve, tmp_path / "rd64-uni.pth", out)
    assert done.returncode == 0 and "48 trained tensors" in done.stdout, done.stderr
    segmenter = Segmenter.load(out, device="cpu", size=64)
    assert isinstance(segmenter.model, CLIPSeg) and segmenter.model.taps == (9, 6, 3)
    for name in ("film_mul.weight", "blocks.2.linear1.bias", "trans_conv.weight", "reduces.0.weight"):
        assert torch.equal(segmenter.model.state_dict()[name], state[name])
    assert checkpoint.load(out)["config"]["model"]["pixel_mean"] == [0.485, 0.456, 0.406]
    segmenter(str(write_scene(tmp_path / "a.png")), ["star"])


@pytest.mark.parametrize("spoil, said", [
    (lambda path: path.write_bytes(b"PK"), "not the decoder of CLIPSeg"),
    (lambda path: torch.save({"a": torch.zeros(2)}, path), "not the decoder of CLIPSeg"),
    (lambda path: authors_file(path, extra=torch.zeros(2)), "superfluous: extra"),
    (lambda path: authors_file(path, **{"film_mul.weight": torch.zeros(64, 512)}), "another shape: film_mul.weight"),
    (lambda path: None, "it is in the archive"),
])
def test_another_file_is_one_line(spoil, said, clip_of_twelve, tmp_path):
    path = tmp_path / "rd64-uni.pth"
    spoil(path)
    complains(in_process("convert.py", "--clip", clip_of_twelve, path, tmp_path / "out.safetensors"), path.name, said)
    assert not (tmp_path / "out.safetensors").exists()
