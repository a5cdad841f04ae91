"""Every check fires on what it is made for and keeps silent on what is harmless."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray import checks
from igd_ray.checks import (
    INFO,
    WARNING,
    Finding,
    Rounded,
    check_batch_dependence,
    check_few_classes,
    check_large_epsilon,
    check_more_steps,
    check_output_range,
    check_query_beats_gradient,
    check_randomised,
    check_rounding,
    check_stored_points,
    check_transfer_beats_direct,
    check_zero_gradient,
    large_threat,
    measure_rounding,
    measure_stored_points,
)
from igd_ray.data import load_images
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.errors import IgdError, InputError
from igd_ray.models import load_model
from igd_ray.threat import Norm, ThreatModel
from tests.toys.models import Threshold


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model("demo")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return load_images("digits", n=64).images


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return load_images("digits", n=64).labels


class Around(nn.Module):
    """A model with something done to its images and its logits."""

    def __init__(
        self,
        model: nn.Module,
        *,
        before: Callable[[Tensor], Tensor] = lambda images: images,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.model(self.before(images)))


def guided(model: nn.Module, sigma: float) -> nn.Module:
    masks = class_masks(model.linear.weight.abs(), 24)
    return InterpretabilityGuidedDefense(model, masks, sigma=sigma, generator=Generator().manual_seed(0))


def test_thresholds_are_the_documented_ones() -> None:
    assert checks.RANDOMISED_DIFFERENCE == 1e-4
    assert checks.ZERO_GRADIENT_SHARE == 0.01
    assert checks.QUERY_BEATS_GRADIENT_IMAGES == 1
    assert checks.TRANSFER_BEATS_DIRECT_IMAGES == 1
    assert checks.BATCH_MARGIN == 1e-3
    assert checks.BATCH_SIZES == (1, 64)
    assert (checks.FEW_STEPS, checks.MANY_STEPS) == (20, 200)
    assert checks.LARGE_EPSILON_FACTOR == 16
    assert checks.LARGE_EPSILON_ACCURACY == 0.05
    assert (checks.ROUNDING_SHARE, checks.ROUNDING_IMAGES) == (0.05, 2)
    assert checks.DISTANCE_TOLERANCE == 1e-6


class TestRandomised:
    def test_a_deterministic_model_is_none(self, model: nn.Module, images: Tensor) -> None:
        for target in (model, guided(model, sigma=0.0)):
            finding = check_randomised(target, images, protocol="standard")
            assert (finding.check, finding.severity, finding.value) == ("randomised", INFO, 0.0)
            assert "no randomness" in finding.message

    def test_a_defense_with_noise_is_one_and_standard_attacks_do_not_fit_it(
        self, model: nn.Module, images: Tensor
    ) -> None:
        finding = check_randomised(guided(model, sigma=0.1), images, protocol="standard")
        assert finding.severity == WARNING
        assert finding.value > 1e-4
        assert "AutoAttack standard" in finding.message

    @pytest.mark.parametrize("sigma", [1 / 255, 0.01, 0.075])
    def test_noise_that_no_clean_image_shows_is_found(self, model: nn.Module, images: Tensor, sigma: float) -> None:
        target = guided(model, sigma)
        assert torch.equal(target(images[:8]), target(images[:8]))
        assert check_randomised(target, images, protocol="standard").severity == WARNING

    def test_for_the_rand_protocol_noise_is_expected(self, model: nn.Module, images: Tensor) -> None:
        finding = check_randomised(guided(model, sigma=0.1), images, protocol="rand")
        assert finding.severity == INFO
        assert finding.value > 1e-4
        assert "the target is randomised" in finding.message

    @pytest.mark.parametrize(("difference", "severity"), [(0.5e-4, INFO), (2e-4, WARNING)])
    def test_one_logit_of_one_image_decides(self, images: Tensor, difference: float, severity: str) -> None:
        calls = []

        def sometimes_off(logits: Tensor) -> Tensor:
            calls.append(None)
            off = torch.zeros_like(logits)
            off[17, 3] = difference * (len(calls) % 2)
            return logits + off

        zeros = Around(nn.Identity(), before=lambda batch: torch.zeros(len(batch), 10), after=sometimes_off)
        assert check_randomised(zeros, images, protocol="standard").severity == severity

    def test_nan_is_not_taken_for_determinism(self, model: nn.Module, images: Tensor) -> None:
        finding = check_randomised(
            Around(model, after=lambda logits: logits * float("nan")), images, protocol="standard"
        )
        assert finding.severity == WARNING


class TestZeroGradient:
    def test_an_honest_model_has_none(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        for target in (model, guided(model, sigma=0.0), guided(model, sigma=0.1)):
            finding = check_zero_gradient(target, images, labels)
            assert (finding.check, finding.severity, finding.value) == ("zero-gradient", INFO, 0.0)

    @pytest.mark.parametrize(
        "mask",
        [
            pytest.param({"before": lambda images: (images * 7).round() / 7}, id="quantised inputs"),
            pytest.param({"before": Tensor.detach}, id="detached inputs"),
            pytest.param({"after": Tensor.detach}, id="detached logits"),
            pytest.param({"after": torch.round}, id="rounded logits"),
            pytest.param({"after": lambda logits: logits * 1e6}, id="saturated softmax"),
            pytest.param({"before": lambda images: images + 0 * images.sqrt()}, id="NaN gradient"),
        ],
    )
    def test_a_masked_model_has_nothing_else(
        self, model: nn.Module, images: Tensor, labels: Tensor, mask: dict[str, Callable[[Tensor], Tensor]]
    ) -> None:
        finding = check_zero_gradient(Around(model, **mask), images, labels)
        assert (finding.severity, finding.value) == (WARNING, 1.0)
        assert "64 of 64" in finding.message
        assert "gradient attacks may be blind" in finding.message

    @pytest.mark.parametrize(("blind", "severity"), [(1, INFO), (2, WARNING)])
    def test_more_than_one_in_a_hundred_is_too_many(self, model: nn.Module, blind: int, severity: str) -> None:
        data = load_images("digits", n=100)

        def blind_at_first(images: Tensor) -> Tensor:
            return torch.cat([images[:blind].detach(), images[blind:]])

        finding = check_zero_gradient(Around(model, before=blind_at_first), data.images, data.labels)
        assert finding.severity == severity
        assert finding.value == pytest.approx(blind / 100)

    def test_images_and_parameters_are_left_alone(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        trainable = load_model("demo").requires_grad_(True)
        before = images.clone()
        check_zero_gradient(trainable, images, labels)
        assert not images.requires_grad
        assert torch.equal(images, before)
        assert all(parameter.grad is None for parameter in trainable.parameters())


class TestBatchDependence:
    def test_a_model_in_eval_mode_does_not_depend_on_its_batch(self, model: nn.Module, images: Tensor) -> None:
        for target in (model, guided(model, sigma=0.0)):
            finding = check_batch_dependence(target, images)
            assert (finding.check, finding.severity, finding.value) == ("batch-dependence", INFO, 0)

    def test_batch_norm_in_training_mode_does(self, images: Tensor) -> None:
        finding = check_batch_dependence(load_model("demo").train(), images)
        assert finding.severity == WARNING
        assert finding.value >= 1
        assert "batch sizes 1 and 64" in finding.message

    @pytest.mark.parametrize(("margin", "severity"), [(0.5e-3, INFO), (2e-3, WARNING)])
    def test_a_prediction_on_the_edge_may_change(self, images: Tensor, margin: float, severity: str) -> None:
        def first_class_unless_alone(batch: Tensor) -> Tensor:
            logits = torch.zeros(len(batch), 10)
            logits[:, int(len(batch) == 1)] = margin
            return logits

        target = Around(nn.Identity(), before=first_class_unless_alone)
        finding = check_batch_dependence(target, images)
        assert finding.severity == severity
        assert finding.value == (64 if severity == WARNING else 0)


class TestOutputRange:
    @pytest.mark.parametrize(
        "after",
        [lambda logits: logits, lambda logits: logits.log_softmax(dim=1), torch.sigmoid, lambda logits: logits * 1e-6],
        ids=["logits", "log-softmax", "sigmoid", "small logits"],
    )
    def test_logits_of_any_kind_are_welcome(
        self, model: nn.Module, images: Tensor, after: Callable[[Tensor], Tensor]
    ) -> None:
        finding = check_output_range(Around(model, after=after), images)
        assert (finding.check, finding.severity) == ("output-range", INFO)

    def test_probabilities_are_not(self, model: nn.Module, images: Tensor) -> None:
        finding = check_output_range(Around(model, after=lambda logits: logits.softmax(dim=1)), images)
        assert finding.severity == WARNING
        assert "probabilities, not logits" in finding.message

    def test_outputs_that_sum_to_one_beyond_the_unit_range_are_logits(self, model: nn.Module, images: Tensor) -> None:
        shifted = Around(model, after=lambda logits: logits - logits.mean(dim=1, keepdim=True) + 0.1)
        assert check_output_range(shifted, images).severity == INFO


class TestQueryBeatsGradient:
    def test_one_image_is_enough(self) -> None:
        finding = check_query_beats_gradient(1, 40)
        assert (finding.check, finding.severity, finding.value) == ("query-beats-gradient", WARNING, 1)
        assert "1 of 40" in finding.message
        assert "masked" in finding.message

    def test_none_is_none(self) -> None:
        finding = check_query_beats_gradient(0, 40)
        assert (finding.severity, finding.value) == (INFO, 0)


class TestTransferBeatsDirect:
    # Exact McNemar: 2·0.5⁶ = 0.031, 2·0.5⁵ = 0.063, 2·(1 + 8)·0.5⁸ = 0.070, 2·(1 + 9)·0.5⁹ = 0.039.
    @pytest.mark.parametrize(
        ("only_transfer", "only_direct", "severity"),
        [(6, 0, WARNING), (5, 0, INFO), (8, 1, WARNING), (7, 1, INFO), (0, 6, INFO), (0, 0, INFO), (30, 30, INFO)],
    )
    def test_it_takes_more_images_than_chance_would_give(
        self, only_transfer: int, only_direct: int, severity: str
    ) -> None:
        finding = check_transfer_beats_direct(only_transfer, only_direct)
        assert (finding.check, finding.severity) == ("transfer-beats-direct", severity)
        assert finding.value == only_transfer - only_direct
        assert ("too weak" in finding.message) == (severity == WARNING)


class TestMoreSteps:
    # Exact McNemar as above: 6 : 0 is not chance, 5 : 0 may be.
    @pytest.mark.parametrize(
        ("only_few", "only_many", "severity"),
        [(6, 0, WARNING), (8, 1, WARNING), (5, 0, INFO), (0, 0, INFO), (0, 6, INFO), (0, 40, INFO)],
    )
    def test_more_steps_that_break_less_than_chance_allows(self, only_few: int, only_many: int, severity: str) -> None:
        finding = check_more_steps(only_few, only_many)
        assert (finding.check, finding.severity) == ("more-steps", severity)
        assert finding.value == only_few - only_many
        assert ("more steps break less" in finding.message) == (severity == WARNING)


class TestLargeEpsilon:
    @pytest.mark.parametrize(("robust", "severity"), [(0, INFO), (5, INFO), (6, WARNING), (100, WARNING)])
    def test_more_than_one_in_twenty_is_too_many(self, robust: int, severity: str) -> None:
        finding = check_large_epsilon(robust, 100)
        assert (finding.check, finding.severity) == ("large-epsilon", severity)
        assert finding.value == pytest.approx(robust / 100)
        assert f"{robust} of 100 images" in finding.message

    def test_no_image_is_no_accuracy(self) -> None:
        with pytest.raises(InputError, match="needs at least one image, not 0"):
            check_large_epsilon(0, 0)

    def test_the_ball_is_sixteen_times_as_large_and_no_larger_than_all_images(self) -> None:
        assert large_threat(ThreatModel(Norm.LINF, 2 / 255)) == ThreatModel(Norm.LINF, 32 / 255)
        assert large_threat(ThreatModel(Norm.LINF, 0.1)) == ThreatModel(Norm.LINF, 1.0)
        assert large_threat(ThreatModel(Norm.L2, 0.5)) == ThreatModel(Norm.L2, 8.0)


class TestFewClasses:
    def test_what_was_replaced_is_said_once(self) -> None:
        notes = ["targeted DLR needs 4 classes, the model has 2: margin", "DLR needs 3 classes, the model has 2: CE"]
        finding = check_few_classes([*notes, notes[0]])
        assert (finding.check, finding.severity, finding.value) == ("few-classes", INFO, 2)
        assert finding.message == f"{notes[0]}; {notes[1]}"

    def test_nothing_replaced_is_a_finding_too(self) -> None:
        finding = check_few_classes([])
        assert (finding.check, finding.severity, finding.value) == ("few-classes", INFO, 0)
        assert "enough classes" in finding.message


def stored_points(points: Tensor, images: Tensor, threat: ThreatModel) -> Finding:
    return check_stored_points([measure_stored_points(points, images, threat)])


class TestStoredPoints:
    @pytest.mark.parametrize("norm", list(Norm))
    def test_float32_storage_of_points_on_the_sphere_is_harmless(self, images: Tensor, norm: Norm) -> None:
        threat = ThreatModel(norm, 8 / 255)
        length = 1 if norm is Norm.LINF else images[0].numel() ** 0.5
        inward = torch.where(images > 0.5, -1.0, 1.0) * (8 / 255 / length)
        finding = stored_points(images + inward, images, threat)
        assert (finding.check, finding.severity) == ("stored-points", INFO)
        assert finding.value < 1e-6
        assert "0 of 64" in finding.message

    def test_a_coarser_storage_is_not(self, images: Tensor) -> None:
        points = (images + 8 / 255).clamp(max=1)
        finding = stored_points(points.half().float(), images, ThreatModel(Norm.LINF, 8 / 255))
        assert finding.severity == WARNING
        # Half precision has 11 significant bits: it rounds numbers below 1 by at most 2⁻¹².
        assert 1e-6 < finding.value <= 2**-12

    @pytest.mark.parametrize(("beyond", "severity"), [(0.5e-6, INFO), (2e-6, WARNING)])
    def test_one_pixel_of_one_point_decides(self, beyond: float, severity: str) -> None:
        images = torch.zeros(3, 1, 2, 2)
        points = images.clone()
        points[1, 0, 1, 0] = 0.25 + beyond
        finding = stored_points(points, images, ThreatModel(Norm.LINF, 0.25))
        assert finding.severity == severity
        assert finding.value == pytest.approx(beyond, abs=2e-8)  # float32 spacing at 0.25

    @pytest.mark.parametrize("pixel", [-1e-4, 1.0001, float("nan"), float("inf")])
    def test_a_pixel_that_is_none_is_outside(self, pixel: float) -> None:
        points = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).repeat(1, 1, 2, 2)
        images = points.clone()
        points[int(pixel > 0), 0, 0, 0] = pixel
        finding = stored_points(points, images, ThreatModel(Norm.LINF, 0.25))
        assert finding.severity == WARNING
        assert "1 of 2" in finding.message
        assert ("not finite" in finding.message) is not math.isfinite(pixel)

    def test_no_points_are_nothing_to_measure(self) -> None:
        empty = torch.zeros(0, 1, 2, 2)
        for finding in (stored_points(empty, empty, ThreatModel(Norm.LINF, 0.25)), check_stored_points([])):
            assert (finding.check, finding.severity, finding.value) == ("stored-points", INFO, None)
            assert "no point is stored" in finding.message

    def test_parts_are_judged_together(self) -> None:
        images, threat = torch.zeros(4, 1, 2, 2), ThreatModel(Norm.LINF, 0.25)
        parts = [
            measure_stored_points(images[:n] + distance, images[:n], threat)
            for n, distance in ((3, 0.5), (4, 0.1), (2, 0.375))
        ]
        finding = check_stored_points(parts)
        assert (finding.severity, finding.value) == (WARNING, 0.25)
        assert "5 of 9 stored points" in finding.message


def rounding(target: nn.Module, points: Tensor, labels: Tensor) -> Finding:
    return check_rounding([measure_rounding(target, points, labels)])


class TestRounding:
    @staticmethod
    def points(lost: int) -> Tensor:
        """Of a hundred points that exceed 100/255, the first `lost` do so by less than rounding takes away."""
        grey = torch.full((100, 1, 1, 1), 102.0)
        grey[:lost] = 100.3
        return grey / 255

    @pytest.mark.parametrize(("lost", "severity"), [(0, INFO), (5, INFO), (6, WARNING), (100, WARNING)])
    def test_more_than_one_in_twenty_is_too_many(self, lost: int, severity: str) -> None:
        labels = torch.zeros(100, dtype=torch.int64)
        finding = rounding(Threshold(100.2 / 255), self.points(lost), labels)
        assert (finding.check, finding.severity) == ("rounding", severity)
        assert finding.value == pytest.approx(lost / 100)
        assert f"loses {lost} of 100" in finding.message

    # One point of few is a large share, and says little of an honest model.
    @pytest.mark.parametrize(
        ("lost", "again", "wrong", "severity"),
        [(1, 0, 10, INFO), (1, 0, 2, INFO), (1, 0, 1, INFO), (2, 1, 2, INFO), (2, 0, 10, WARNING), (2, 0, 2, WARNING)],
    )
    def test_one_point_is_too_few(self, lost: int, again: int, wrong: int, severity: str) -> None:
        finding = check_rounding([Rounded(points=wrong, wrong=wrong, lost=lost, again=again, both=again)])
        assert finding.severity == severity
        assert finding.value == pytest.approx((lost - again) / wrong)
        assert ("no longer fool the target" in finding.message) is (severity == WARNING)

    def test_points_that_are_right_do_not_count(self) -> None:
        labels = torch.zeros(100, dtype=torch.int64)
        labels[50:] = 1
        finding = rounding(Threshold(100.2 / 255), self.points(10), labels)
        assert finding.value == pytest.approx(10 / 50)

    @pytest.mark.parametrize("number", [0, 10])
    def test_nothing_misclassified_is_nothing_to_measure(self, number: int) -> None:
        finding = rounding(Threshold(1.0), self.points(10)[:number], torch.zeros(number, dtype=torch.int64))
        assert (finding.check, finding.severity, finding.value) == ("rounding", INFO, None)
        assert f"none of {number} stored points" in finding.message

    @pytest.mark.parametrize(("lost", "severity"), [((5, 0, 5), INFO), ((5, 0, 11), WARNING)])
    def test_parts_are_judged_together(self, lost: tuple[int, ...], severity: str) -> None:
        labels = torch.zeros(100, dtype=torch.int64)
        target = Threshold(100.2 / 255)
        finding = check_rounding([measure_rounding(target, self.points(number), labels) for number in lost])
        assert finding.severity == severity
        assert finding.value == pytest.approx(sum(lost) / 300)
        assert f"loses {sum(lost)} of 300" in finding.message

    # Exact McNemar over those that only rounding, or only asking again, makes right: 2·0.5⁶ = 0.031, 2·0.5⁵ = 0.063.
    @pytest.mark.parametrize(
        ("lost", "again", "both", "severity"),
        [(6, 0, 0, WARNING), (1, 0, 0, INFO), (2, 0, 0, WARNING), (7, 1, 1, WARNING), (6, 1, 1, INFO), (7, 1, 0, INFO)],
    )
    def test_chance_is_not_put_down_to_rounding(self, lost: int, again: int, both: int, severity: str) -> None:
        finding = check_rounding([Rounded(points=25, wrong=20, lost=lost, again=again, both=both)])
        assert finding.severity == severity
        assert finding.value == pytest.approx((lost - again) / 20)

    def test_what_both_answers_make_right_is_counted(self) -> None:
        calls = []

        def after_the_first(logits: Tensor) -> Tensor:
            calls.append(None)
            if len(calls) == 1:
                return logits  # both of class 1
            return logits * torch.tensor([-1.0, 1.0])[:, None] if len(calls) == 2 else -logits

        target = Around(Threshold(0.1), after=after_the_first)
        measured = measure_rounding(target, torch.ones(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))
        assert measured == Rounded(points=2, wrong=2, lost=1, again=2, both=1)

    def test_a_target_without_an_answer_is_an_error(self) -> None:
        silent = Around(Threshold(0.0), after=lambda logits: logits * float("nan"))
        with pytest.raises(IgdError, match="NaN or infinite logits for 100 of 100"):
            rounding(silent, self.points(0), torch.zeros(100, dtype=torch.int64))

    def test_what_noise_loses_is_not_put_down_to_rounding(self) -> None:
        noise = Generator().manual_seed(0)

        def sometimes_right(logits: Tensor) -> Tensor:
            flips = torch.rand(len(logits), 1, generator=noise) < 0.3
            return torch.where(flips, -logits, logits)

        points = torch.full((2000, 1, 1, 1), 102 / 255)
        target = Around(Threshold(100.2 / 255), after=sometimes_right)
        finding = rounding(target, points, torch.zeros(2000, dtype=torch.int64))
        assert finding.severity == INFO
