"""The micro-batches of a run: chosen by the memory that is left, halved where it ends, and described before the first step."""

from functools import cached_property

from tfkit.data import Loader
from tfkit.engine.companions import companion_bytes_per_row
from tfkit.engine.components import Components, trained_numbers
from tfkit.engine.estimate import choose_micro_batch, kept_numbers
from tfkit.engine.training_data import RunContext
from tfkit.errors import MachineError
from tfkit.training.memory import available_bytes, largest_divisor, likely_peak, resident_bytes, step_bytes_per_row


class MicroBatches:
    """Sets `loader.micro_batch_size`. `restored`: the optimizer's state is in memory already."""

    def __init__(self, context: RunContext, components: Components, *, restored: bool):
        self.context, self.components, self.loader = context, components, components.loader
        self.model = components.stepper.loss_module.model
        self.restored = restored

    def choose(self) -> None:
        """Take the size that `choose_micro_batch` gives for the memory that is left; a GPU's is tried out instead."""
        on_cpu = self.context.device.type == "cpu"
        left = available_bytes() if on_cpu else None
        self.loader.micro_batch_size = choose_micro_batch(
            self.loader.sizes.unit,
            self.loader.rows.longest,
            self.row_bytes if on_cpu else 0,
            None if left is None else left - self.bytes_to_come,
        )

    def halve(self, error: str) -> None:
        """Halve the micro-batches after `error`. Raises MachineError where the recipe fixes them, or a single row does not fit."""
        rows = self.loader.micro_batch_size
        if self.context.recipe.training.micro_batch_size is not None and rows > 1:
            raise MachineError(f"out of memory in micro-batches of {rows} rows ({error}): leave training.micro_batch_size out, or lower it")
        if rows == 1:
            raise MachineError(
                f"out of memory with a single row of {self.loader.rows.longest} tokens ({error}): use a smaller model or "
                "model.context_length, training.activation_checkpointing=true, or more memory"
            )
        self.loader.micro_batch_size = largest_divisor(self.loader.sizes.unit, rows // 2)
        self.context.listener.warn(
            f"out of memory in micro-batches of {rows} rows: they have {self.loader.micro_batch_size} from now on, in the same steps"
        )

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of the activations of the longest row, on a CPU, measured with a short one."""
        rows, loss_module = self.loader.rows, self.components.stepper.loss_module
        first = Loader(rows, self.loader.collate, 1, 1).step(0)[0]  # not the longest where rows are not grouped by length
        longer = max(1.0, rows.longest / first.tokens)
        row = int(step_bytes_per_row(loss_module, first) * longer)
        return row + companion_bytes_per_row(loss_module.objective, rows.longest)

    @property
    def bytes_to_come(self) -> int:
        """Bytes of gradients and optimizer state: not in memory before the first step, but for the state that a resumed run has read."""
        kept = 0 if self.restored else kept_numbers(self.context.recipe, self.model)
        return 4 * (trained_numbers(self.model) + kept)

    def describe(self) -> str:
        """Describe the size of the steps and, on a CPU, of the memory: too much of either is seen before the first step."""
        rows, sizes, micro_batch = self.loader.rows, self.loader.sizes, self.loader.micro_batch_size
        size = f"{self.components.plan.steps:,} steps of {sizes.full:,} rows, about {round(sizes.full * rows.mean_tokens):,} tokens each"
        size += f"; micro-batches of {micro_batch:,} rows, at most {micro_batch * rows.longest:,} tokens"
        held = resident_bytes() if self.context.device.type == "cpu" else None
        if held is None:
            return size
        head = self.model.config.head.kind in ("lm", "masked_lm")
        logits = micro_batch * rows.longest * self.model.config.vocab_size * self.components.precision.itemsize if head else 0
        peak = likely_peak(held, self.bytes_to_come, micro_batch * self.row_bytes, logits)
        left = available_bytes()
        return size + f"; about {peak / 1e9:.2g} GB of memory" + ("" if left is None else f", of {(left + held) / 1e9:.3g} GB")
