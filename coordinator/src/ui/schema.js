// JSON Schema in words, and an example of it. Only what the gateway's own document uses.

// Deeper than this an example tells nothing.
const DEEPEST = 6;

/** Follows references into the document. */
export function resolved(document, schema) {
  let found = schema ?? {};
  for (let step = 0; found.$ref && step < 8; step += 1) {
    const { $ref, ...beside } = found;
    found = { ...at(document, $ref), ...beside };
  }
  return found;
}

/** What a reference like `#/components/schemas/Problem` points at. */
function at(document, reference) {
  return reference.replace(/^#\//, "").split("/").reduce((place, name) => place?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], document) ?? {};
}

/** The name of the schema that a reference means, or none. */
export function nameOf(schema) {
  return schema?.$ref?.match(/^#\/components\/schemas\/(.+)$/)?.[1] ?? null;
}

/** The alternatives of a schema, without null. */
export function alternatives(schema) {
  return (schema.oneOf ?? schema.anyOf ?? []).filter((each) => each.type !== "null");
}

function takesNull(schema) {
  return [schema.type].flat().includes("null") || (schema.oneOf ?? schema.anyOf ?? []).some((each) => each.type === "null");
}

/** The type in a few words. */
export function typeOf(document, schema) {
  const nullable = takesNull(schema) ? " or null" : "";
  const name = nameOf(schema);
  if (name) return name;
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.filter((each) => each !== null).map((each) => JSON.stringify(each)).join(" | ");
  const choices = alternatives(schema);
  if (choices.length > 0) return choices.map((each) => typeOf(document, each)).join(" or ") + nullable;
  const type = [schema.type].flat().filter((each) => each && each !== "null")[0] ?? "any";
  if (type === "array") return `array of ${typeOf(document, schema.items ?? {})}${nullable}`;
  return type + nullable;
}

/** The limits in a few words. */
export function limitsOf(schema) {
  const words = [];
  if (schema.format) words.push(schema.format);
  if (schema.minimum !== undefined) words.push(`from ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) words.push(`over ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined) words.push(`to ${schema.maximum}`);
  if (schema.minLength !== undefined) words.push(`at least ${schema.minLength} characters`);
  if (schema.maxLength !== undefined) words.push(`at most ${schema.maxLength} characters`);
  if (schema.minItems !== undefined) words.push(`at least ${schema.minItems} items`);
  if (schema.maxItems !== undefined) words.push(`at most ${schema.maxItems} items`);
  if (schema.pattern) words.push(`matches ${schema.pattern}`);
  if (schema.default !== undefined && schema.default !== null) words.push(`default ${JSON.stringify(schema.default)}`);
  return words.join(", ");
}

/** The fields of an object: those of all its parts, and of its first alternative. */
export function fieldsOf(document, schema) {
  const full = resolved(document, schema);
  const parts = [full, ...(full.allOf ?? []).map((part) => resolved(document, part))];
  const required = new Set(parts.flatMap((part) => part.required ?? []));
  return parts.flatMap((part) => Object.entries(part.properties ?? {})).map(([name, field]) => ({ name, field, required: required.has(name) }));
}

/** A value that the schema allows and that looks like a real one. */
export function exampleOf(document, schema, name = "", depth = 0) {
  const full = resolved(document, schema);
  if (full.examples?.length) return full.examples[0];
  if (full.example !== undefined) return full.example;
  if (full.const !== undefined) return full.const;
  if (full.enum) return full.enum.find((each) => each !== null);
  if (full.default !== undefined && full.default !== null) return full.default;
  if (depth > DEEPEST) return null;
  const fields = fieldsOf(document, full);
  const [choice] = alternatives(full);
  if (choice) {
    const chosen = exampleOf(document, choice, name, depth + 1);
    // A tagged choice beside fields that all its alternatives have.
    if (fields.length === 0 || typeof chosen !== "object" || chosen === null) return chosen;
    return { ...chosen, ...objectOf(document, fields, depth) };
  }
  const type = [full.type].flat().find((each) => each && each !== "null");
  if (fields.length > 0) return objectOf(document, fields, depth);
  if (type === "array") return full.items ? [exampleOf(document, full.items, name, depth + 1)] : [];
  if (type === "integer" || type === "number") return number(full, name);
  if (type === "boolean") return true;
  if (type === "string") return text(full, name);
  return type === "object" ? {} : null;
}

function objectOf(document, fields, depth) {
  return Object.fromEntries(fields.map(({ name, field }) => [name, exampleOf(document, field, name, depth + 1)]));
}

function number(schema, name) {
  if (name.endsWith("_ms")) return 1767225600000;
  if (name === "probability") return 0.73;
  return schema.minimum ?? 1;
}

function text(schema, name) {
  if (schema.format === "binary") return "@xray.png";
  if (schema.pattern === "^[0-9a-f]{32}$" || name === "id") return "4f1c0a9e6b7d42d8a3f55d1e0c9b8a76";
  const known = {
    image: "data:image/png;base64,iVBORw0KGgo…",
    question: "Is there an effusion?",
    indication: "Shortness of breath",
    text: "Is there an effusion?",
    media_type: "image/png",
    title: "Is there an effusion?",
    code: "image_too_large",
    model: "radialog",
  };
  return known[name] ?? (schema.format === "uri-reference" ? "/v1/…" : "…");
}
