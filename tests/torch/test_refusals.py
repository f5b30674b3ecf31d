"""What is no function of one example, or cannot be computed with, is refused by name, with the way out."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from ntkit.errors import InputError  # noqa: E402
from ntkit.torch import EmpiricalNTK, linearize  # noqa: E402

pytestmark = pytest.mark.usefixtures("unchecked")


class Of(nn.Module):
    """A linear layer, and `function` of its output."""

    def __init__(self, function, before=lambda x: x):
        super().__init__()
        self.layer, self.function, self.before = nn.Linear(4, 3), function, before

    def forward(self, x):
        return self.function(self.layer(self.before(x)))


class Recomputed(nn.Module):
    """Computes its activations again on the way back."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.outer(checkpoint(self.inner, x, use_reentrant=False).tanh())


def with_nan():
    module = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    module[1][0].weight.data[0, 0] = float("nan")
    return module


REFUSED = {
    "BatchNorm": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "`1` (BatchNorm1d).*module.eval()"),
    "BatchNorm without statistics": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(),
        "`1` (BatchNorm1d).*track_running_stats=True",
    ),
    "batch_norm": (lambda: Of(lambda x: F.batch_norm(x, None, None, training=True)), "statistics of the batch"),
    "Dropout": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1)), "`1` (Dropout).*p=0.1.*module.eval()"),
    "dropout": (lambda: Of(F.dropout), "drops out at random (p=0.5)"),
    "attention's dropout": (
        lambda: Of(lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3, dropout_p=0.5)[:, 0]),
        "drops out at random",
    ),
    "randomness": (lambda: Of(lambda x: x + torch.randn_like(x)), "not deterministic"),
    "change of its input": (lambda: Of(lambda x: x, before=lambda x: x.mul_(2)), "changes its input in place"),
    "no parameters": (nn.ReLU, "has no parameters"),
    "frozen": (lambda: nn.Linear(4, 3).requires_grad_(False), "only frozen parameters"),
    "complex": (lambda: nn.Linear(4, 3, dtype=torch.complex64), "`weight` is complex"),
    "half": (lambda: nn.Linear(4, 3).half(), "`weight` has dtype torch.float16"),
    "a vector": (lambda: Of(lambda x: x[:, 0]), "outputs (n, o)"),
    "images": (lambda: Of(lambda x: x[:, None]), "outputs (n, o)"),
    "a tuple": (lambda: Of(lambda x: (x,)), "must return a tensor"),
    "NaN": (with_nan, "NaN or infinity: first in the output of `1.0` (Linear)"),
    "a mean over the batch": (lambda: Of(lambda x: x - x.mean(0)), "depend on the other examples"),
    "a sum over the batch before": (lambda: Of(lambda x: x, lambda x: x + x.flip(0)), "depend on the other examples"),
    "no module": (lambda: 3, "a torch module or a callable"),
    "a root at 0": (lambda: Of(lambda x: (0 * x).abs().sqrt()), "a derivative by `layer.weight` that is not finite"),
    "checkpoints": (Recomputed, "computes activations again on the way back"),
    "a spoilt gradient": (lambda: Of(lambda x: x.exp().mul_(2)), "changes in place what its own gradient needs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, words = REFUSED[case]
    with pytest.raises(InputError, match=words.replace("(", "[(]").replace(")", "[)]")):
        EmpiricalNTK(make())(torch.randn(5, 4))


def test_one_example_does_not_hide_a_dependence():
    with pytest.raises(InputError, match="depend on the other"):
        EmpiricalNTK(Of(lambda x: x - x.mean(0)))(torch.randn(1, 4))


@pytest.mark.parametrize(
    "x, words",
    [
        (torch.randn(2, 4, device="meta"), "`x1` is on meta, but the parameters are on cpu"),
        (torch.randn(2, 4).double(), "`x1` has dtype torch.float64"),
        (torch.randn(2, 4).half(), "`x1` has dtype torch.float16"),
        (torch.full((2, 4), float("inf")), "`x1` must be finite"),
        (torch.randn(0, 4), "at least one example"),
        ([[1.0]], "`x1` must be a torch tensor"),
        (torch.randn(2, 5), "`module` fails for a batch of shape .3, 5."),
        (torch.zeros(2, 4, dtype=torch.int64), "`module` fails for a batch .* .torch.int64."),
    ],
)
def test_inputs_refused(x, words):
    with pytest.raises(InputError, match=words):
        EmpiricalNTK(nn.Linear(4, 3))(x)


def test_inference_mode_has_no_gradients_but_its_tensors_do():
    layer = nn.Linear(4, 3)
    with torch.inference_mode():
        x = torch.randn(2, 4)
        with pytest.raises(InputError, match="inference_mode"):
            EmpiricalNTK(layer)(x)
    assert EmpiricalNTK(layer)(x).shape == (2, 2)


def test_arguments_refused():
    layer = nn.Linear(4, 3)
    with pytest.raises(InputError, match="`outputs`"):
        EmpiricalNTK(layer, outputs="all")
    with pytest.raises(InputError, match=r"`params` must name.*nothing.*There are weight, bias"):
        EmpiricalNTK(layer, ["nothing"])
    with pytest.raises(InputError, match="must be a dictionary of tensors"):
        EmpiricalNTK(lambda p, x: x)
    with pytest.raises(InputError, match="`memory`"):
        EmpiricalNTK(layer, memory="much")
    with pytest.raises(InputError, match="of one shape and dtype"):
        EmpiricalNTK(layer)(torch.randn(2, 4), torch.randn(2, 5))
    with pytest.raises(InputError, match="drops out"):
        linearize(nn.Sequential(layer, nn.Dropout()))
