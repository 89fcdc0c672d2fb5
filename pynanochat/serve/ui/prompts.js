// What the empty page offers to ask: things that a model of the toy world can answer, or ones for a run on other text.

const TOY = [
  { kind: "Ask about its world", text: "What is Mabel's favorite food?" },
  {
    kind: "A word problem",
    text: "Mira has 23 beads, gives away 8 and then gets 15 more. How many beads does Mira have now?",
  },
  { kind: "Spelling", text: "How many times does the letter e appear in the word 'cheese'?" },
  { kind: "What it does not know", text: "What is Japan?" },
];

const OTHER = [
  { kind: "Who is there", text: "Who are you, and what can you do?" },
  {
    kind: "A word problem",
    text: "A baker fills 6 boxes with 12 rolls each and sells 25 rolls. How many rolls are left?",
  },
  { kind: "Spelling", text: "How many times does the letter r appear in the word strawberry?" },
  { kind: "Explain", text: "Why is the sky blue? Explain it in three sentences." },
];

// The prompts for a run, by its data source and name where the server tells.
export const promptsFor = ({ run = "", data = "" }) => (/toy/i.test(`${run} ${data}`) ? TOY : OTHER);
