"""CoOp (arXiv:2109.01134): context vectors, learned, in the place of a hand-written prompt's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..recipes import CONTEXT_WORDS, RANDOM_START
from .base import Method
from .config import check_count, check_switch
from .context import DEFAULT_N_CTX, ContextConfig, ContextPrompt


@dataclass(eq=False)
class CoOpConfig(ContextConfig):
    """Settings of CoOp: learned context vectors around the class names of a dual encoder's classifier.

    Args:
        n_ctx: number of context vectors, M in the paper; None takes 16, or as many as `ctx_init` has tokens.
        class_names: the classes; saved in `adapter_config.json`, so that a loaded adapter is a ready classifier.
        class_token_position: where the name stands: "end", "middle" (`n_ctx // 2` vectors before it) or "front".
        class_specific_context: one set of vectors per class (CSC) and not one for all (unified).
        ctx_init: words whose token embeddings start the vectors; None: Gaussian, standard deviation 0.02.
        class_template: the fixed text behind the context, with "{}" for the name, such as "{}, a type of pet.";
            tokenised as one text. "middle" and "front" need it to begin with the name.
        meta_net: shift the vectors by each image (CoCoOp).
        meta_net_reduction: the Meta-Net has `projection_dim // meta_net_reduction` hidden units.
        zero_shot_template: the prompt while the adapter is disabled; of a list, the normalised features are averaged.
        tokenizer_name_or_path: the prompt's tokenizer; None: the base model's own name or path.
        loss_type: "softmax", cross-entropy over the classes, or "sigmoid", which asks of each class for itself whether
            the image shows it, as SigLIP was trained.
        modules_to_save: modules of the base model that are trained and saved with the prompt, by the ends of their
            dotted names: "visual_projection", "text_model.final_layer_norm". Each adapter has its own copies.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: CoOp (arXiv:2109.01134) and CoCoOp (arXiv:2203.05557).
    """

    meta_net: bool = field(default=False, metadata={"help": "Shift the context by each image (CoCoOp)."})
    meta_net_reduction: int = field(
        default=16, metadata={"help": "The Meta-Net's hidden units are projection_dim // meta_net_reduction."}
    )

    type_name: ClassVar[str] = "COOP"
    shaping: ClassVar[tuple[str, ...]] = (*ContextConfig.shaping, "meta_net")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_switch(self.meta_net, "meta_net")
        self.meta_net_reduction = check_count(self.meta_net_reduction, "meta_net_reduction")

    @property
    def method(self) -> str:  # type: ignore[override]
        """The key of CoOp, or of CoCoOp where there is a Meta-Net."""
        return "cocoop" if self.meta_net else "coop"


class CoOpPrompt(ContextPrompt):
    """CoOp's context vectors, as they are.

    Reference: CoOp (arXiv:2109.01134), whose M is `n_ctx`.
    """


def fields(protocol: str) -> dict[str, Any]:
    """16 random vectors in its own paper's few-shot classification, 4 from words where CoCoOp's paper has CoOp."""
    if protocol in RANDOM_START:
        return {"n_ctx": DEFAULT_N_CTX, "ctx_init": None}
    return {"n_ctx": None, "ctx_init": CONTEXT_WORDS}


COOP = Method(
    key="coop",
    title="CoOp",
    config=CoOpConfig,
    prompt=CoOpPrompt,
    reference="2109.01134",
    fields_of=fields,
    settings=(),
    colour="#0072b2",
)
