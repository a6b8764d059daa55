// What went wrong, in words, with what to do. The server's own words (`detail`) come first, since it knows more; here is
// what it cannot say itself, and a title for each of its codes.

/** An answer of the API that is not a success, or none (`status` 0). */
export class ApiError extends Error {
  constructor({ status = 0, code = "", title = "", detail = "", retryAfter = null }) {
    super(detail || title || "no answer");
    Object.assign(this, { status, code, title, detail, retryAfter });
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return [0, 408, 429].includes(this.status) || this.status >= 500;
  }
}

const BY_STATUS = {
  0: ["The server does not answer", "Check that RaDialog is running and that you are connected, then try again."],
  401: ["An API key is needed", "Enter the key that your administrator gave you."],
  403: ["This key may not do that", "Use another key, or ask your administrator."],
  404: ["This conversation is not here", "It was deleted, has expired, or belongs to another key. Begin a new one."],
  408: ["That took too long", "Try again; a smaller image uploads faster."],
  409: ["This does not fit the conversation's state", "Reload the page to see how it stands."],
  412: ["It was changed elsewhere meanwhile", "What is there now is shown. Do it again if you still mean it."],
  413: ["The image is too large", "Save it with fewer pixels or stronger compression, and try again."],
  415: ["This is not an image that can be read", "Use a PNG or JPEG file. DICOM files have to be exported first."],
  422: ["This cannot be used", "Change it as described, and try again."],
  429: ["Too many requests at once", "Wait a moment, then try again."],
  503: ["The service is busy", "All places in the queue are taken. Wait a moment, then try again."],
  504: ["That took too long", "Try again."],
};

const TURN_TITLES = {
  image_missing: "The image is gone",
  image_unreadable: "The image cannot be read",
  image_empty: "The image file is empty",
  image_format_unsupported: "This is neither PNG nor JPEG",
  image_corrupt: "The image is damaged",
  image_dimensions: "The image's shape cannot be used",
  image_too_large: "The image is too large",
  image_color_unsupported: "The image's colours cannot be used",
  image_animated: "The image has more than one frame",
  context_length: "The conversation is too long for the model",
  bundle_mismatch: "The model was changed meanwhile",
  deadline: "It waited too long",
  model: "The model failed",
  model_not_found: "This model is not served here",
};

/** `{title, advice}` of an error of the API. */
export function explain(error) {
  if (!(error instanceof ApiError)) return { title: "Something went wrong on this page", advice: `${error.message}. Reload the page.` };
  const [title, advice] = BY_STATUS[error.status] ?? [error.title || `The server answered ${error.status}`, "Try again."];
  const wait = error.retryAfter ? ` Try again in ${seconds(error.retryAfter)}.` : "";
  // That there is nothing is all that the server says, also where there is something that belongs to another key.
  const nothing = error.status === 404 && error.code !== "model_not_found";
  // What is to be sent is the page's to know.
  const detail = nothing || error.status === 412 ? "" : error.detail;
  return { title: TURN_TITLES[error.code] ?? title, advice: (detail ? sentence(detail) : advice) + wait };
}

/** `{title, advice}` of a turn that failed. */
export function explainTurn({ code, message }) {
  return { title: TURN_TITLES[code] ?? "There is no answer", advice: message ? sentence(message) : "Ask again." };
}

function seconds(count) {
  return count === 1 ? "1 second" : `${count} seconds`;
}

/** A text with a capital letter and a full stop. */
export function sentence(text) {
  const trimmed = text.trim();
  const first = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
