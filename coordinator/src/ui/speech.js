// Reading aloud and dictation, by the browser's own interfaces where it has them. Nothing goes through the gateway; some
// browsers send what is said to their maker's servers, which the button for it says.

const Recognition = window.SpeechRecognition ?? window.webkitSpeechRecognition;
// Long texts stop half-way in some browsers: they are read sentence by sentence.
const SENTENCES = /[^.!?\n]+[.!?]*\s*/g;

/** Whether this browser can read aloud. */
export const canRead = "speechSynthesis" in window && typeof window.SpeechSynthesisUtterance === "function";

/** Whether this browser can take dictation, which it does on secure pages only. */
export const canListen = typeof Recognition === "function" && window.isSecureContext;

let reading = null;

/** Reads a text aloud, in place of what is being read; calls `ended` when it is over or another text begins. */
export function readAloud(text, ended) {
  stopReading();
  const mine = { ended };
  reading = mine;
  const parts = text.match(SENTENCES) ?? [];
  for (const [index, part] of parts.entries()) {
    const utterance = new SpeechSynthesisUtterance(part.trim());
    utterance.lang = document.documentElement.lang;
    const last = index === parts.length - 1;
    utterance.addEventListener("end", () => last && reading === mine && stopReading());
    utterance.addEventListener("error", () => reading === mine && stopReading());
    speechSynthesis.speak(utterance);
  }
  if (parts.length === 0) stopReading();
}

/** Stops reading. */
export function stopReading() {
  const last = reading;
  reading = null;
  if (canRead) speechSynthesis.cancel();
  last?.ended();
}

/** Takes dictation: `heard` gets the text so far, whether it is final; `ended` gets why it ended, or nothing. */
export class Dictation {
  #recognition = null;

  constructor({ heard, ended }) {
    this.heard = heard;
    this.ended = ended;
  }

  get listening() {
    return this.#recognition !== null;
  }

  begin() {
    const recognition = new Recognition();
    Object.assign(recognition, { lang: navigator.language, continuous: true, interimResults: true });
    let fault = "";
    recognition.addEventListener("result", ({ results }) => {
      this.heard(Array.from(results, (result) => result[0].transcript).join("").trim());
    });
    recognition.addEventListener("error", ({ error }) => (fault = error));
    recognition.addEventListener("end", () => {
      this.#recognition = null;
      this.ended(fault);
    });
    this.#recognition = recognition;
    recognition.start();
  }

  end() {
    this.#recognition?.stop();
  }
}
