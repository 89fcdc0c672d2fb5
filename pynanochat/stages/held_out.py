"""Held-out questions of reinforcement learning: pass@1 to pass@k, the answers' length beside it, and a few answers.

    asked = held_out_questions(tasks, tokenizer, each=400, longest_prompt=256, seed=1)
    evaluate = evaluation(asked, generate, tokenizer, Sampling(samples=8), seed=1, device=device)
    evaluate(model)             {"pass@1": 0.31, ..., "pass@8": 0.58, "val_reward": 0.31, "val_answer_tokens": 93.2}

`generate` is that of rollouts.py and reads the weights of the model in training.
"""

import statistics

from pynanochat.engine.events import answer_events
from pynanochat.evals.ranks import gather, mine
from pynanochat.evals.score import pass_at
from pynanochat.stages.rollouts import Question, Questions, Sampling, roll_out

SHOWN = 3


def held_out_questions(tasks: list, tokenizer, *, each: int, longest_prompt: int, seed: int) -> list[Question]:
    """At most `each` questions of every task, always the same for a seed."""
    asked = []
    for task in tasks:
        questions = Questions([task], tokenizer, seed=seed, longest_prompt=longest_prompt)
        asked += [questions[n] for n in range(min(len(task), each))]
    return asked


def evaluation(asked: list[Question], generate, tokenizer, sampling: Sampling, *, seed: int, device, ranks=None):
    """evaluate(model) for the training loop: sampled answers to `asked`, with the same random numbers each time."""

    def evaluate(_model) -> dict[str, float]:
        groups = roll_out(mine(asked, ranks), generate, tokenizer, sampling, seed=seed)
        found = [
            {
                "task": group.question.task.name,
                "right": sum(group.question.task.grade(group.question.conversation, a.text) for a in group.answers),
                "reward": statistics.fmean(answer.reward for answer in group.answers),
                "tokens": statistics.fmean(answer.length for answer in group.answers),
            }
            for group in groups
        ]
        return pass_rates(gather(found, ranks, device), sampling.samples)

    return evaluate


def pass_rates(found: list[dict], most: int) -> dict[str, float]:
    """pass@k as means over tasks, for each task at 1 and `most`, and the answers' mean reward and length.

    found: for each question {"task", "right" of `most` answers, "reward", "tokens"}.
    """
    rates = {}
    for task in sorted({f["task"] for f in found}):
        right = [f["right"] for f in found if f["task"] == task]
        rates[task] = [statistics.fmean(pass_at(k, most, count) for count in right) for k in range(1, most + 1)]
    result = {f"pass@{k}": statistics.fmean(rate[k - 1] for rate in rates.values()) for k in range(1, most + 1)}
    if len(rates) > 1:
        result |= {f"pass@{k}/{task}": rate[k - 1] for task, rate in rates.items() for k in sorted({1, most})}
    result["val_reward"] = statistics.fmean(f["reward"] for f in found)
    result["val_answer_tokens"] = statistics.fmean(f["tokens"] for f in found)
    return result


def samples_of(asked: list[Question], generate, tokenizer, max_tokens: int):
    """sample(model) for the loop: the likeliest answers to a few held-out questions, tool calls and outputs in «»."""
    shown = asked[:: max(1, len(asked) // SHOWN)][:SHOWN]

    def sample(_model) -> list[dict]:
        prompts = [question.prompt for question in shown]
        answers = generate(prompts, samples=1, max_tokens=max_tokens, temperature=0.0, top_k=0, seed=0)
        result = []
        for question, [answer] in zip(shown, answers, strict=True):
            events = answer_events(tokenizer, answer.ids, answer.forced)
            text = "".join(e.text if e.kind == "text" else f"«{e.text}»" for e in events)
            result.append({"prompt": question.conversation["messages"][-2]["content"], "text": text})
        return result

    return sample
