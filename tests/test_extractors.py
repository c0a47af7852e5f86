"""Extractors of other libraries read files of weights as those libraries write them."""

import dataclasses
import pathlib

import pytest
import torch
from safetensors.torch import save_file

from dmmd_kernels import metrics
from dmmd_kernels.data import images
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.evaluation import extractors
from dmmd_kernels.systems.dmmd.deep_kernel import make_kernel
from tests.runs import TINY, run_with


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


@pytest.fixture
def run(tmp_path):
    dataset = Dataset(torch.zeros(9, 3, 8, 8), 1.0)
    deep = make_kernel(TINY.system, torch.Size([2]), 0)
    return run_with(deep, TINY, tmp_path, dataset)


def test_clip_is_read_from_a_folder_that_transformers_saved(run, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    small = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 12, "image_size": 16}
    small |= {"num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    torch.manual_seed(0)
    net = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**small))
    net.save_pretrained(tmp_path / "clip")
    features = extractors.make("clip", run, tmp_path / "clip").features
    x = torch.rand(70, 3, 8, 8) * 2 - 1  # more than one batch
    assert features(x).shape == (70, 12)
    white = torch.ones(1, 3, 16, 16)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        want = net.eval()(pixel_values=(white - mean) / deviation).image_embeds
    torch.testing.assert_close(features(white), want)


def test_a_folder_that_is_no_clip_model_is_said_in_a_sentence(run, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "clip").mkdir()
    with pytest.raises(extractors.ExtractorError, match=r"features=clip: .* can't be read"):
        extractors.make("clip", run, tmp_path / "clip")


def test_inception_is_read_from_a_file_of_its_weights(run, tmp_path, monkeypatch):
    module = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3",
        reason="torch-fidelity, or torchvision which it needs, is not installed",
    )
    made, path = module.FeatureExtractorInceptionV3, tmp_path / "inception.safetensors"
    torch.save({}, tmp_path / "none.pth")
    with monkeypatch.context() as patched:
        patched.setattr(made, "load_state_dict", lambda *_: None)  # weights stay random
        names = ["2048", "logits_unbiased"]
        net = made("inception-v3-compat", names, str(tmp_path / "none.pth"))
    save_file(net.state_dict(), path)
    extractor = extractors.make("inception", run, path)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    assert extractor.logits(x).shape == (2, 1008)
    want = net(((x + 1) * 127.5).round().to(torch.uint8))[0]
    torch.testing.assert_close(extractor.features(x), want.detach())
    assert want.shape == (2, 2048)


def test_a_pickle_of_weights_is_refused_unread(run, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "inception.pth"
    torch.save({"conv": Runs(mark)}, path)
    with pytest.raises(extractors.ExtractorError, match=r"can't be read as safetensors.*save_file"):
        extractors.make("inception", run, path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["inception", "clip"])
def test_networks_are_never_downloaded(run, name):
    with pytest.raises(extractors.ExtractorError, match=r"needs --weights PATH.*nothing is down"):
        extractors.make(name, run)


@pytest.mark.parametrize("name", ["random", "inception", "clip"])
def test_extractors_of_images_refuse_points(run, name):
    points = dataclasses.replace(run, dataset=Dataset(torch.zeros(9, 2), 1.0))
    with pytest.raises(extractors.ExtractorError, match=f"features={name} needs images, got check"):
        extractors.make(name, points)


def test_an_unknown_extractor_and_a_classifier_of_points_are_refused(run):
    with pytest.raises(extractors.ExtractorError, match=r"one of pixels, .*, clip, got 'eyes'"):
        extractors.make("eyes", run)
    with pytest.raises(extractors.ExtractorError, match="features=classifier is for digits, got"):
        extractors.make("classifier", run)


@pytest.mark.parametrize(
    ("data", "name"), [("digits", "classifier"), ("patches", "random"), ("cifar10", "pixels")]
)
def test_data_sets_have_their_usual_features(run, data, name):
    assert extractors.usual(dataclasses.replace(run, settings=TINY.changed(data=data))) == name


def test_random_features_tell_patches_from_their_pixels_in_disorder(run):
    pytest.importorskip("sklearn")
    patches = images.patches(16, 200, 200, seed=1).train
    run = dataclasses.replace(run, dataset=run.dataset._replace(train=patches))
    features = extractors.make("random", run).features
    order = torch.randperm(16 * 16)
    mixed = patches[100:].flatten(2)[..., order].unflatten(2, (16, 16))
    assert features(patches).shape == (200, 39)
    near, far = (metrics.fid(features(patches[:100]), features(x)) for x in (patches[100:], mixed))
    assert far > 2 * near
