import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from agegender.artifact import GRAPH_INPUT, GRAPH_OUTPUTS, Calibration, NetworkConfig
from agegender.data.synthetic import draw_face
from agegender.model.calibrated import CalibratedNetwork
from agegender.model.checkpoint import round_weights
from agegender.model.export import export_graph
from agegender.model.network import FaceNetwork, Outputs, build_network

CALIBRATION = Calibration(
    gender_temperature=1.7,
    age_low_factors=[3.0 + year / 20 for year in range(121)],
    age_high_factors=[4.0 + year / 10 for year in range(121)],
)


def lively(network: FaceNetwork) -> FaceNetwork:
    """As if trained: statistics of real batches and heads that react, so that answers differ from image to image."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            module.momentum = None  # the mean over the batches seen
    side = network.config.image_size_px
    with torch.no_grad():
        images = torch.from_numpy(images_of(64, side)).permute(0, 3, 1, 2)
        network.train()(images)
        bins, features = network.age_head.weight.shape
        rise = torch.linspace(-1, 1, bins).unsqueeze(1) if bins > 1 else torch.tensor([[10.0]])
        network.age_head.weight.copy_(rise * torch.randn(features))
        if bins == 1:
            network.age_head.bias.add_(50 - network.eval()(images).age_years_B.median())
            network.train()
    torch.nn.init.normal_(network.gender_head.weight, std=1.0)
    return network


def images_of(count: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    drawn = [draw_face(float(rng.uniform(0, 100)), index % 2, index, side) for index in range(count // 2)]
    noise = list(rng.integers(0, 256, (count - len(drawn), side, side, 3), np.uint8))
    return np.stack(drawn + noise)


@pytest.mark.parametrize(
    ("backbone", "head", "views"),
    [
        ("compact", "distribution", 2),
        ("compact", "scalar", 1),
        ("notebook", "scalar", 2),
        ("mobilenet_v1", "distribution", 2),
    ],
)
def test_the_graph_says_what_torch_says(tmp_path, backbone, head, views):
    torch.manual_seed(0)
    shape = NetworkConfig(backbone=backbone, age_head=head, image_size_px=64, crop_fraction=0.8, views=views)
    network = lively(build_network(shape))
    round_weights(network)
    path = tmp_path / "model.onnx"
    export_graph(network, CALIBRATION, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert network.training, "the network that was handed over stays as it was"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = GRAPH_OUTPUTS if head == "distribution" else GRAPH_OUTPUTS[:-1]
    assert tuple(each.name for each in session.get_outputs()) == names
    reference = CalibratedNetwork(network.eval(), CALIBRATION)
    for count in (1, 3, 64):
        images = images_of(count, 64)
        seen = dict(zip(names, session.run(None, {GRAPH_INPUT: images}), strict=True))
        with torch.no_grad():
            expected = dict(zip(names, (each.numpy() for each in reference(torch.from_numpy(images))), strict=True))
        for name in names:
            assert seen[name].dtype == np.float32 and seen[name].shape == expected[name].shape
            assert np.abs(seen[name] - expected[name]).max() < (0.01 if name.endswith("years") else 1e-4), name
    assert seen["age_years"].std() > 1, "images must differ for the comparison to mean something"


def test_filters_are_halves_and_the_runtime_folds_normalisation_into_them(tmp_path):
    network = build_network(NetworkConfig(backbone="compact", age_head="distribution", image_size_px=32))
    path = tmp_path / "model.onnx"
    export_graph(network, CALIBRATION, path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    assert path.stat().st_size < 2.1 * sum(parameter.numel() for parameter in network.parameters())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ran = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert not ran & {"BatchNormalization"}, "it is folded when the graph is loaded"


class _Says(FaceNetwork):
    """A network whose answer is known, to look at the calibration alone."""

    def __init__(self, age_years: list[float], gender_logit: list[float]) -> None:
        config = NetworkConfig(backbone="compact", age_head="scalar", image_size_px=32)
        super().__init__(config, torch.nn.Identity(), 1)
        self.answer = Outputs(torch.tensor(age_years), None, torch.tensor(gender_logit))

    def forward(self, images: torch.Tensor) -> Outputs:  # noqa: ARG002  the answer does not depend on it
        return self.answer


def test_calibration_shifts_by_the_rounded_age_and_stays_within_the_ages():
    ages = [0.2, 29.49, 29.5, 119.0, 150.0]
    network = CalibratedNetwork(_Says(ages, [0.0, 1.7, -1.7, 3.4, 0.0]), CALIBRATION)
    age, low, high, female = (each.tolist() for each in network(torch.zeros(5, 32, 32, 3, dtype=torch.uint8)))
    assert age == pytest.approx([0.2, 29.49, 29.5, 119.0, 120.0])
    assert low == pytest.approx([0.0, 29.49 - 4.45, 29.5 - 4.5, 119 - 8.95, 120 - 9.0], abs=1e-4)
    assert high == pytest.approx([4.2, 29.49 + 6.9, 29.5 + 7.0, 120.0, 120.0], abs=1e-4)
    assert female == pytest.approx([0.5, 0.731059, 0.268941, 0.880797, 0.5], abs=1e-5)
