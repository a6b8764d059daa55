// The tasks that the model was trained for, in the page's words. What the model reads is the bundle's wording, which the
// gateway's `asked` tells.

/** What can be asked about where there is no image, and so no classifier. */
export const FINDINGS = [
  "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
  "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
];

export const REGIONS = [
  { label: "Heart", value: "heart" },
  { label: "Lungs", value: "lungs" },
  { label: "Bones", value: "bones" },
  { label: "Mediastinum", value: "mediastinum" },
];

/** "a", "a and b", "a, b and c". */
export function listed(names) {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** What a turn asks, as a short text. */
export function titleOf(request) {
  switch (request.task) {
    case "report":
      return "Write the report";
    case "question":
      return request.text;
    case "correction": {
      const parts = [];
      if (request.add?.length) parts.push(`add ${listed(request.add)}`);
      if (request.remove?.length) parts.push(`remove ${listed(request.remove)}`);
      return `Correct the report: ${parts.join("; ")}`;
    }
    case "all_findings":
      return "List all findings";
    case "presence":
      return `Is there any ${request.finding}?`;
    case "summary":
      return "Summarise the report";
    case "plain_language":
      return "Explain the report in plain language";
    case "region":
      return `What about the ${request.region}?`;
    case "reasons":
      return `What speaks for ${listed(request.findings ?? [])}?`;
    case "view":
      return "From which view was the image taken?";
    case "impression":
      return "Write the impression";
    default:
      return request.task;
  }
}

/** The title of a conversation in the list. */
export function conversationTitle({ title, image }) {
  return title || (image ? "Chest X-ray" : "Words only");
}

/** "14:05" today, "3 Mar, 14:05" before, in the reader's language. */
export function timeOf(milliseconds) {
  const time = new Date(milliseconds);
  const today = new Date().toDateString() === time.toDateString();
  const options = { hour: "2-digit", minute: "2-digit", ...(today ? {} : { day: "numeric", month: "short" }) };
  return time.toLocaleString(undefined, options);
}

/** 0.7312 as "73%"; never "0%" or "100%", which no classifier can know. */
export function percent(probability) {
  const rounded = Math.round(probability * 100);
  if (rounded <= 0) return "<1%";
  return rounded >= 100 ? ">99%" : `${rounded}%`;
}
