"""One optimizer step: minibatch in, micro-batches through the model, a checked update out."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch

from eyas.algorithms.base import Algorithm, LearnerOutput
from eyas.algorithms.losses import kl
from eyas.batch import Denominators, TrainingBatch, TrainingSample
from eyas.errors import TrainingDiverged
from eyas.models.logprobs import chosen_logprobs, entropies, tokens_at_once
from eyas.models.policy import Policy
from eyas.models.reading import batch_of, read
from eyas.models.scoring import action_logprobs
from eyas.splits import micro_batches
from eyas.training.memory import keep_freed_memory
from eyas.training.optim import Optimizer


class Learner:
    """Applies an algorithm's loss to a policy. The gradient is the same for any micro-batch size."""

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        optimizer: Optimizer,
        temperature: float = 1.0,
        micro_batch_tokens: int | None = None,
        max_nonfinite_updates: int = 5,
    ):
        self.policy = policy
        self.algorithm = algorithm
        self.optimizer = optimizer
        self.temperature = temperature
        self.micro_batch_tokens = micro_batch_tokens
        self.max_nonfinite_updates = max_nonfinite_updates
        self.nonfinite_in_a_row = 0
        self.cloner: Learner | None = None  # of a second stream: its gradient is added, before the one step of both
        self.on_pass: Callable[[Sequence[TrainingSample], torch.Tensor], None] | None = None  # gets their log-probs
        keep_freed_memory()

    def update(self, samples: Sequence[TrainingSample], cloned: Sequence[TrainingSample] = ()) -> dict[str, float]:
        """One step on a minibatch, and on what is cloned beside it. One that is not finite is refused and counted.

        Raises TrainingDiverged after `max_nonfinite_updates` refusals in a row.
        """
        self.optimizer.zero_grad()
        sums = self._add_gradient(samples)
        if cloned and self.cloner:
            sums |= self.cloner._add_gradient(cloned)
        grad_norm = self.optimizer.clip()
        sums |= {"train/grad_norm": grad_norm, "train/learning_rate": self.optimizer.learning_rate}
        is_finite = all(torch.isfinite(torch.tensor(v)) for v in sums.values())
        sums["train/nonfinite_updates_count"] = float(not is_finite)
        if is_finite:
            self.optimizer.step()
            self.policy.version += 1
            self.nonfinite_in_a_row = 0
        else:
            self._refuse()
        return sums

    def _add_gradient(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        denominators = Denominators.of(samples)
        sums: dict[str, float] = defaultdict(float)
        for part in micro_batches(samples, self.micro_batch_tokens, self.algorithm.keeps_trajectories):
            batch = batch_of(self.policy.model, self.policy.images, part, shares_prompts=True)
            output = self.forward(batch)
            if self.on_pass:
                self.on_pass(part, output.logprobs)
            loss = self.algorithm.loss(batch, output, denominators)
            loss.total.backward()
            for name, value in loss.metrics.items():
                sums[name] += float(value)
        return dict(sums)

    def _refuse(self) -> None:
        self.optimizer.skip()
        self.nonfinite_in_a_row += 1
        if self.nonfinite_in_a_row >= self.max_nonfinite_updates:
            raise TrainingDiverged(
                f"{self.nonfinite_in_a_row} updates in a row were not finite, none was applied. Begin "
                "a run with a lower optim.lr or a smaller reward_scale, with the last checkpoint as model.name"
            )

    def state_dict(self) -> dict[str, int]:
        return {"nonfinite_in_a_row": self.nonfinite_in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.nonfinite_in_a_row = state["nonfinite_in_a_row"]

    def forward(self, batch: TrainingBatch) -> LearnerOutput:
        """Log-probs, entropy and values of a batch under the current weights. Logits exist at completion tokens only.

        A scored action is one element: its log-prob and entropy are those of the distribution over actions.
        """
        with self.policy.autocast():
            return self._forward(batch)

    def _forward(self, batch: TrainingBatch) -> LearnerOutput:
        model = self.policy.model
        hidden = read(model, self.policy.images, batch)
        chosen, entropy = chosen_logprobs(
            hidden[batch.token_rows, batch.token_columns],
            batch.token_ids,
            model.logits,
            self.temperature,
            model.forbidden_ids,
            self.algorithm.needs_entropy,
            tokens_at_once(len(model.tokenizer)),
        )
        action_kl = None
        if batch.scoring is not None:
            actions, _ = action_logprobs(model, hidden, batch.scoring, self.temperature)
            places = (batch.scoring.elements,)
            chosen = chosen.index_put(places, actions.gather(-1, batch.scoring.chosen[:, None])[:, 0])
            action_kl = kl(batch.scoring.sampling_logprobs, actions)
            if entropy is not None:
                entropy = entropy.index_put(places, entropies(actions))
        output = LearnerOutput(chosen, entropy, None, action_kl)
        if self.algorithm.needs_values:
            values = self.policy.batch_values(batch, hidden)
            if self.policy.critic.config.level == "token":
                output.element_values = values
            else:
                output.values = values
        return output
