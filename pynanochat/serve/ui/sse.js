// Server-sent events from text that arrives in pieces: new SseParser().feed("data: a\n\ndata") is ["a"].

export class SseParser {
  constructor() {
    this._line = "";
    this._data = [];
    this._afterReturn = false;
  }

  // The data of each event that `text` completes. Lines end in \n, \r\n or \r; a comment or another field is left out.
  feed(text) {
    if (this._afterReturn && text.startsWith("\n")) text = text.slice(1);
    if (text) this._afterReturn = text.endsWith("\r");
    const lines = (this._line + text).split(/\r\n|\n|\r/);
    this._line = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this._data.length) events.push(this._data.join("\n"));
        this._data = [];
      } else if (line === "data" || line.startsWith("data:")) {
        this._data.push(line.slice(5).replace(/^ /, ""));
      }
    }
    return events;
  }
}
