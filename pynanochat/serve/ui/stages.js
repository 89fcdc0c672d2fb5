// The stages of a run, oldest first, and how their models are called: stageTitle("toy:sft") is {name: "sft", title: "SFT"}.

const TITLES = { pretrain: "BASE", midtrain: "MID", sft: "SFT", rl: "RL" };

export const STAGES = Object.keys(TITLES);

export const HINTS = {
  pretrain: "continues your text rather than answering",
  midtrain: "has seen conversations, tools and choices",
  sft: "was taught to answer well",
  rl: "has practised problems by their reward",
};

let titles = new Map(); // model id -> {name, title}

// Take the models as GET /v1/models lists them: [{id, pynanochat: {stage}}].
export function learnModels(models) {
  titles = new Map(
    models.map((model) => [model.id, named(model.pynanochat?.stage ?? model.id.split(":")[1] ?? model.id)]),
  );
}

export function stageTitle(id) {
  return titles.get(id) ?? named(String(id).split(":").at(-1) || "model");
}

const named = (stage) =>
  Object.hasOwn(TITLES, stage) ? { name: stage, title: TITLES[stage] } : { name: "other", title: stage };
