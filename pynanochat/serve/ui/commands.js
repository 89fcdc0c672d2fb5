// Slash commands of the message box: find("/temp") lists those that fit, run("/temperature 0.5", app) carries one out.

import { SAMPLING } from "./settings.js";
import { setTheme } from "./theme.js";

const sampling = (command, name, what) => ({
  name: command,
  argument: "number",
  what,
  run(app, argument) {
    const [low, high] = app.settings.range(name);
    const value = Number(argument.replace(",", "."));
    if (!argument || !Number.isFinite(value) || value < low || value > high)
      throw new Error(`/${command} takes a number from ${low} to ${high}.`);
    const { label } = SAMPLING.find((one) => one.name === name);
    return `${label} is ${app.settings.set(name, value)} now.`;
  },
});

const COMMANDS = [
  sampling("temperature", "temperature", "how varied answers are"),
  sampling("topk", "top_k", "choose among the k likeliest tokens, 0 for all"),
  sampling("topp", "top_p", "choose among the likeliest tokens up to this share"),
  sampling("minp", "min_p", "leave out tokens below this share of the likeliest"),
  sampling("penalty", "repetition_penalty", "make used tokens less likely"),
  sampling("max", "max_tokens", "tokens of an answer at most"),
  {
    name: "seed",
    argument: "number or off",
    what: "the same seed gives the same answers",
    run(app, argument) {
      if (!/^(\d{1,9}|off)$/.test(argument)) throw new Error("/seed takes a whole number, or off.");
      app.settings.choose("seed", argument === "off" ? "" : argument);
      return argument === "off" ? "Answers are drawn afresh each time." : `The seed is ${argument} now.`;
    },
  },
  {
    name: "stage",
    argument: "base, mid, sft or rl",
    what: "which stage of the run answers",
    run(app, argument) {
      const title = app.chooseStage(argument.toUpperCase());
      if (!title) throw new Error(`/stage takes one of ${app.stageTitles().join(", ")}.`);
      return `${title} answers now.`;
    },
  },
  {
    name: "compare",
    what: "all stages answer side by side, or one again",
    run: (app) => (app.toggleCompare() ? "All stages answer side by side now." : "One stage answers now."),
  },
  { name: "tokens", what: "show the last answer's tokens by probability", run: (app) => app.showTokens() },
  {
    name: "theme",
    argument: "light, dark or auto",
    what: "colours of the page",
    run: (_, argument) => {
      if (!["light", "dark", "auto"].includes(argument)) throw new Error("/theme takes light, dark or auto.");
      setTheme(argument);
      return "";
    },
  },
  { name: "export", what: "save this conversation as a file", run: (app) => app.exportOne() },
  { name: "clear", what: "begin anew; this conversation stays in the list", run: (app) => app.newChat() },
  { name: "help", what: "commands and keys", run: (app) => app.help() },
];

export const commands = () => COMMANDS;

// The commands that `text` may become; none once an argument is being written.
export function find(text) {
  const word = /^\/([a-z]*)$/i.exec(text)?.[1].toLowerCase();
  return word === undefined ? [] : COMMANDS.filter((command) => command.name.startsWith(word));
}

// Carry a command out; returns what to tell the reader. Throws Error with what is wrong, for the reader.
export function run(text, app) {
  const [, word, argument] = /^\/(\S*)\s*([\s\S]*)$/.exec(text.trim());
  const command = COMMANDS.find((one) => one.name === word.toLowerCase());
  if (!command) throw new Error(`There is no command /${word.slice(0, 40)}. /help lists them.`);
  return command.run(app, argument.trim()) ?? "";
}
