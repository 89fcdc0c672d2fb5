// Runs before the page is drawn, so that a chosen theme does not flash. See theme.js.
try {
  const stored = localStorage.getItem("pynanochat.theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
} catch {
  // no storage: as the system has it
}
