"""Replays of SALT: the decomposition, and training of the core between the stored singular vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrexp.layers.salt import SALTLayer
from lrexp.methods.adapters.salt import SALT
from lrexp.methods.base import Batch, Decisions, Micro, TaskLoss, Training
from lrexp.spec.convert import from_mapping
from lrexp.verify.adapters import TARGET, base_optimizer, context, evaluate, inject, linear, one_layer, train
from lrexp.verify.case import Case
from lrexp.verify.compare import Outcome
from lrexp.verify.replay import replay


class Watched(SALT):
    """SALT that notes its penalty, with the code's weight decay: on alpha, not on its change, and on beta."""

    layer: SALTLayer
    penalties: list[Tensor]
    shrinks_by: float

    def decayed(self, model: nn.Module) -> set[str]:
        """All that is trained but alpha, which `before_update` shrinks."""
        return {name for name, _ in model.named_parameters() if not name.endswith(".scale")}

    def loss(self, model: nn.Module, batch: Batch, task_loss: TaskLoss, micro: Micro) -> Tensor:
        """Notes the penalty."""
        self.penalties.append(self.layer.penalty().detach())
        return super().loss(model, batch, task_loss, micro)

    def before_update(self, step: int, training: Training) -> None:
        """What AdamW does to alpha before its move."""
        with torch.no_grad():
            self.layer.scale.sub_(self.shrinks_by * (1 + self.layer.scale))


@replay("salt", "init_train", results=("rank_top",))
def init_train(case: Case) -> Outcome:
    """The decomposition is compared; training goes on from the stored one and from the given start."""
    given = case.hyperparameters
    section = {"ratio": given["ratio_salt"], "target_modules": [TARGET]}
    section |= {key: given[key] for key in ("r_lora", "relu", "reg_multiplier")}
    method = Watched(from_mapping(SALT.Hyperparameters, section, "method"))
    model = method.prepare(one_layer(linear(case["W"], case.get("b"))), Decisions(), context(case))
    layer = model.get_submodule(TARGET)
    assert isinstance(layer, SALTLayer)
    optimizer, rate = base_optimizer(given)
    method.layer, method.penalties, method.shrinks_by = layer, [], rate * optimizer["weight_decay"]
    trained = {"scale": layer.scale, "shift": layer.shift, "X": layer.X, "Y": layer.Y}
    found = {name: getattr(layer, name).clone() for name in ("U", "S", "Vt")}
    found |= {f"{name}_init": parameter.detach().clone() for name, parameter in trained.items()}
    found["scale_init"] += 1
    for name in ("U", "S", "Vt"):
        inject(getattr(layer, name), case[name])
    for name, parameter in trained.items():
        inject(parameter, case[f"{name}_init"] - int(name == "scale"))
    found["Weff_init"] = layer.merged().weight  # type: ignore[assignment]
    outcome = train(method, model, case, trained)
    outcome.results["rank_top"] = layer.p
    outcome.tensors["scale_final"] += 1
    found |= {"reg": torch.stack(method.penalties), "y_final": evaluate(model, case["x"][0])}
    found["core_final_prerelu"] = torch.diag(layer.S) + torch.block_diag(
        torch.diag(layer.top_change()), layer.X @ layer.Y
    )
    (plain,) = method.finalize(model).children()
    outcome.tensors |= found
    outcome.tensors["W_merged"] = plain.weight  # type: ignore[assignment]
    return outcome
