// The API in a readable form, drawn from /openapi.json: what the gateway does is described once, in its code.

import { copyText } from "/assets/clipboard.js";
import { button, byId, el, setText } from "/assets/dom.js";
import { fillIcons } from "/assets/icons.js";
import { alternatives, exampleOf, fieldsOf, limitsOf, nameOf, resolved, typeOf } from "/assets/schema.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

fillIcons(document);
try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  draw(await response.json());
} catch (error) {
  setText(byId("docs-state"), `The document cannot be read: ${error.message}. Reload the page.`);
}

function draw(api) {
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method], shared: item.parameters ?? [] })));
  const named = api.tags ?? [];
  const tags = [...new Set([...named.map((tag) => tag.name), ...operations.flatMap((each) => each.tags ?? ["other"])])];
  const groups = tags
    .map((name) => ({ name, about: named.find((tag) => tag.name === name)?.description, operations: operations.filter((each) => (each.tags?.[0] ?? "other") === name) }))
    .filter((group) => group.operations.length > 0);

  document.title = `${api.info.title} API`;
  byId("contents").replaceChildren(...groups.map(contents), schemaContents(api));
  byId("main").replaceChildren(
    el("h1", { text: `${api.info.title} API` }),
    el("p", { class: "lead" }, prose(api.info.summary), " ", prose(api.info.description)),
    el("p", { class: "quiet", text: `Version ${api.info.version}, OpenAPI ${api.openapi}` }),
    ...Object.values(api.components?.securitySchemes ?? {}).map((scheme) => authentication(scheme)),
    ...groups.map((group) => section(api, group)),
    schemas(api));
  // The address may name a place that was not there before.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

function authentication(scheme) {
  return el("p", { class: "notice plain" }, el("strong", { text: "Authentication" }),
    el("span", {}, code("Authorization: Bearer KEY"), ". ", prose(scheme.description)));
}

function contents(group) {
  return el("div", {},
    el("h2", { text: group.name }),
    el("ul", {}, ...group.operations.map((each) => el("li", {}, el("a", { href: `#${idOf(each)}` }, method(each.method), el("span", { text: each.summary || each.path }))))));
}

function schemaContents(api) {
  return el("div", {}, el("h2", { text: "Schemas" }),
    el("ul", {}, ...Object.keys(api.components?.schemas ?? {}).sort().map((name) => el("li", {}, el("a", { href: `#schema-${name}` }, el("span", { text: name }))))));
}

function section(api, { name, about, operations }) {
  return el("section", { class: "tag-group" }, el("h2", { class: "group-title", text: name }), about ? el("p", { class: "quiet", text: about }) : null,
    ...operations.map((each) => operation(api, each)));
}

function operation(api, each) {
  const parameters = [...each.shared, ...(each.parameters ?? [])].map((parameter) => resolved(api, parameter));
  const bodies = Object.entries(resolved(api, each.requestBody).content ?? {});
  const id = idOf(each);
  return el("article", { class: "operation", id, "aria-labelledby": `${id}-title` },
    el("h3", { id: `${id}-title` }, method(each.method), el("span", { class: "path", text: each.path })),
    each.summary ? el("p", { class: "summary", text: each.summary }) : null,
    each.description ? el("p", {}, prose(each.description)) : null,
    parameters.length > 0 ? parameterTable(api, parameters) : null,
    ...bodies.map(([type, content]) => body(api, type, content)),
    el("h4", { text: "Example" }),
    ...examples(api, each, parameters, bodies),
    responses(api, each));
}

function parameterTable(api, parameters) {
  const rows = parameters.map((each) => [
    el("span", {}, code(each.name), each.required ? required() : ""),
    each.in,
    type(api, each.schema ?? {}),
    prose([each.description, limitsOf(resolved(api, each.schema))].filter(Boolean).join(" — ")),
  ]);
  return el("div", {}, el("h4", { text: "Parameters" }), table(["Name", "In", "Type", "Meaning"], rows));
}

function body(api, mediaType, content) {
  return el("div", {}, el("h4", {}, "Body ", code(mediaType)), fields(api, content.schema ?? {}));
}

/** The fields of a schema, or its alternatives with their fields. */
function fields(api, schema) {
  const full = resolved(api, schema);
  const parts = [];
  if (nameOf(schema)) parts.push(el("p", { class: "quiet" }, type(api, schema), ". ", prose(full.description)));
  const choices = alternatives(full);
  const own = fieldsOf(api, full);
  if (choices.length > 0) {
    const rows = choices.map((choice) => {
      const one = resolved(api, choice);
      const inside = fieldsOf(api, choice).map(({ name, field, required: needed }) => el("span", { class: "inline-field" }, code(name), ": ", type(api, field), needed ? required() : ""));
      return [inside.length > 0 ? el("span", {}, ...inside) : type(api, choice), prose(one.description)];
    });
    parts.push(table(["One of", "Meaning"], rows));
  }
  if (own.length > 0) {
    const rows = own.map(({ name, field, required: needed }) => {
      const one = resolved(api, field);
      return [el("span", {}, code(name), needed ? required() : ""), type(api, field), prose([field.description ?? one.description, limitsOf(one)].filter(Boolean).join(" — "))];
    });
    parts.push(table(["Field", "Type", "Meaning"], rows));
  }
  if (choices.length + own.length === 0) parts.push(el("p", {}, type(api, full), limitsOf(full) ? ` (${limitsOf(full)})` : ""));
  return el("div", {}, ...parts);
}

function responses(api, each) {
  const rows = Object.entries(each.responses ?? {}).map(([status, response]) => {
    const full = resolved(api, response);
    const contents = Object.entries(full.content ?? {}).map(([media, content]) => el("span", { class: "inline-field" }, code(media), content.schema ? ": " : "", content.schema ? type(api, content.schema) : ""));
    const headers = Object.keys(full.headers ?? {}).map((name) => el("span", { class: "inline-field" }, "header ", code(name)));
    return [el("span", { class: `http http-${status[0]}`, text: status }), prose(full.description), el("span", {}, ...contents, ...headers)];
  });
  const [status, first] = Object.entries(each.responses ?? {}).find(([name]) => name.startsWith("2")) ?? [];
  const json = resolved(api, first).content?.["application/json"]?.schema;
  return el("div", {}, el("h4", { text: "Answers" }), table(["Status", "When", "Content"], rows),
    json ? el("details", {}, el("summary", { text: `Example of ${status}` }), listing(JSON.stringify(exampleOf(api, json), null, 2))) : null);
}

/** A curl command for each kind of body. */
function examples(api, each, parameters, bodies) {
  const path = each.path.replace(/\{(\w+)\}/g, (_, name) => {
    const parameter = parameters.find((one) => one.name === name);
    return encodeURIComponent(exampleOf(api, parameter?.schema ?? {}, name));
  });
  const open = Array.isArray(each.security) && each.security.length === 0;
  const command = (...rest) => {
    const parts = [`curl ${each.method === "get" ? "" : `-X ${each.method.toUpperCase()} `}${location.origin}${path}`, ...(open ? [] : ["-H 'Authorization: Bearer KEY'"]), ...rest];
    return listing(parts.join(" \\\n  "));
  };
  const streams = Object.values(each.responses ?? {}).some((one) => resolved(api, one).content?.["text/event-stream"]) && bodies.length === 0;
  if (bodies.length === 0) return [command(...(streams ? ["-N"] : []))];
  return bodies.map(([mediaType, content]) => {
    if (mediaType === "multipart/form-data") {
      return command(...fieldsOf(api, content.schema).map(({ name, field }) => `-F '${name}=${exampleOf(api, field, name)}'`));
    }
    const example = content.example ?? exampleOf(api, content.schema ?? {});
    return command(`-H 'Content-Type: ${mediaType}'`, `-d '${JSON.stringify(example, null, 2).replaceAll("'", "'\\''")}'`);
  });
}

function schemas(api) {
  const all = Object.keys(api.components?.schemas ?? {}).sort();
  return el("section", { class: "tag-group" }, el("h2", { class: "group-title", text: "Schemas" }),
    ...all.map((name) => el("article", { class: "operation", id: `schema-${name}` }, el("h3", { text: name }),
      el("p", {}, prose(api.components.schemas[name].description)), fields(api, api.components.schemas[name]))));
}

// --- Small pieces ---------------------------------------------------------------------------------------------------

function idOf({ operationId, method: name, path }) {
  return operationId ?? `${name}${path.replace(/\W+/g, "-")}`;
}

function method(name) {
  return el("span", { class: `method method-${name}`, text: name.toUpperCase() });
}

function code(text) {
  return el("code", { text });
}

function required() {
  return el("span", { class: "required", text: "required" });
}

/** A type, with links to the schemas in it. */
function type(api, schema) {
  const words = typeOf(api, schema);
  const names = api.components?.schemas ?? {};
  const parts = words.split(/(\w+)/).map((word) => (Object.hasOwn(names, word) ? el("a", { href: `#schema-${word}`, text: word }) : word));
  return el("span", { class: "type" }, ...parts);
}

/** Text with `code` in it. */
function prose(text = "") {
  const parts = (text ?? "").split(/`([^`]+)`/).map((part, index) => (index % 2 === 1 ? code(part) : part));
  return el("span", {}, ...parts);
}

function table(head, rows) {
  return el("div", { class: "table-holder", tabindex: "0", role: "region", "aria-label": head.join(", ") },
    el("table", {},
      el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell)))))));
}

function listing(text) {
  const copy = button("Copy", { icon: "copy", quiet: true, on: async () => {
    copy.title = (await copyText(text)) ? "Copied" : "Not allowed here: select the text";
  } });
  return el("div", { class: "listing" }, el("pre", { tabindex: "0", "aria-label": "Example" }, el("code", { text })), copy);
}
