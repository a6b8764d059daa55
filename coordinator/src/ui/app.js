// The page's beginning: puts the parts together, and shows the conversation that the address names.

import { announce } from "/assets/announce.js";
import { onKeyNeeded } from "/assets/api.js";
import { Composer } from "/assets/composer.js";
import { Conversation } from "/assets/conversation.js";
import { askKey } from "/assets/dialogs.js";
import { button, byId, el, setText, show } from "/assets/dom.js";
import { explain } from "/assets/errors.js";
import { Findings } from "/assets/findings.js";
import { fillIcons, icon } from "/assets/icons.js";
import { forgetImage, imageAddress } from "/assets/images.js";
import { List } from "/assets/list.js";
import { Models } from "/assets/models.js";
import { Start } from "/assets/start.js";
import { store } from "/assets/store.js";
import { conversationTitle } from "/assets/tasks.js";
import { Viewer } from "/assets/viewer.js";

const THEMES = { auto: ["theme", "Theme: as the system"], light: ["sun", "Theme: light"], dark: ["moon", "Theme: dark"] };
const THEME = "radialog.theme";

fillIcons(document);
onKeyNeeded(askKey);

const viewer = new Viewer(byId("viewer"));
const models = new Models();
const composer = new Composer({
  correct: () => {
    showPane("image");
    findings.focus();
  },
  knows: (task) => models.knows(task),
});
new Conversation({
  reword: (text) => composer.reword(text),
  // The most probable words would be the same again.
  again: ({ task, text, add, remove, finding, findings: names, region }) =>
    composer.ask({ task, text, add, remove, finding, findings: names, region, temperature: 0.7, seed: crypto.getRandomValues(new Uint32Array(1))[0] }),
});
const findings = new Findings(byId("findings"), (correction) => composer.ask({ task: "correction", ...correction }).then((taken) => {
  // On a phone the answer is in the other pane.
  if (taken) showPane("dialog");
  return taken;
}));
new List({ gone: (id) => openId() === id && go(null), trouble: tell });
new Start({ begun, wanted: () => go(null), model: () => models.chosen() });

/** The conversation that the address names. */
function openId() {
  const match = location.hash.match(/^#\/c\/(.+)$/);
  return match ? decodeURIComponent(match[1]) : null;
}

function go(id) {
  const hash = id === null ? "#/" : `#/c/${encodeURIComponent(id)}`;
  if (location.hash !== hash) location.hash = hash;
}

function begun(view) {
  store.adopt(view);
  go(view.id);
  store.refresh().catch(() => {});
}

async function route() {
  const id = openId();
  closeList();
  clearConnection();
  show(byId("loading"), false);
  try {
    if (id !== null && store.view?.id !== id) waiting("Opening the conversation…");
    await store.open(id);
  } catch (error) {
    if (error.name !== "AbortError" && openId() === id) missing(error);
  }
}

function waiting(text) {
  byId("loading").replaceChildren(el("p", { class: "quiet", text }));
  show(byId("loading"), true);
}

/** The conversation cannot be shown. */
function missing(error) {
  const { title, advice } = explain(error);
  byId("loading").replaceChildren(
    el("div", { class: "notice error big-notice" }, el("strong", { text: title }), el("span", { text: advice }),
      el("div", { class: "row" },
        error.passing ? button("Try again", { kind: "small", on: route }) : null,
        el("a", { class: "button small", href: "#/" }, "New conversation"))));
  show(byId("loading"), true);
  document.title = "RaDialog";
}

store.addEventListener("opened", () => {
  const { view } = store;
  show(byId("start"), !view && openId() === null);
  show(byId("work"), Boolean(view));
  show(byId("loading"), !view && openId() !== null);
  byId("new").toggleAttribute("aria-current", !view);
  title();
  if (!view) return void viewer.show(null);
  // A phone shows one of both: the report first.
  showPane("dialog");
  byId("work").classList.toggle("words-only", !view.image);
  if (!view.image) return void viewer.show(null, "This conversation has no image.");
  imageAddress(view.id).then(
    (address) => store.view?.id === view.id && viewer.show(address),
    () => store.view?.id === view.id && viewer.show(null, "The image could not be fetched. Reload the page to try again."));
});

store.addEventListener("forgotten", ({ detail }) => forgetImage(detail));

store.addEventListener("gone", ({ detail: { id, error } }) => openId() === id && missing(error));

store.addEventListener("turn", ({ detail }) => {
  if (byId("work").dataset.pane === "image" && store.turn(detail)?.text) show(byId("dialog-news"), true);
});

store.addEventListener("list", title);

function title() {
  const listed = store.list.find((each) => each.id === store.view?.id);
  document.title = store.view ? `${conversationTitle(listed ?? store.view)} – RaDialog` : "RaDialog";
  // Whose image a sheet of paper shows, and where to find it again.
  const { id, created_ms: created } = store.view ?? {};
  setText(byId("paper-head"), store.view ? [conversationTitle(listed ?? store.view), new Date(created).toLocaleString(), id].join(" · ") : "");
}

// --- Connection -----------------------------------------------------------------------------------------------------

store.addEventListener("connection", ({ detail: { state, delay } }) => {
  if (state === "open") return clearConnection();
  const place = byId("connection");
  // A server may close a stream at any time; only what lasts is worth a word.
  clearTimeout(place.timer);
  place.timer = setTimeout(() => {
    place.replaceChildren(icon("wifi"), el("span", { text: delay > 3000 ? `Connection lost, trying again in ${Math.round(delay / 1000)} s` : "Connection lost, trying again" }));
    show(place, true);
  }, place.hidden ? 500 : 0);
});

store.addEventListener("trouble", ({ detail }) => tell(explain(detail)));

function clearConnection() {
  const place = byId("connection");
  clearTimeout(place.timer);
  if (!place.hidden) announce("Connected again.");
  show(place, false);
}

/** Says in words what went wrong, over the page, until it is closed. */
function tell({ title: what, advice }) {
  const notice = el("div", { class: "notice error toast", role: "alert" }, el("strong", { text: what }), el("span", { text: advice }));
  notice.append(button("Close", { icon: "close", quiet: true, on: () => notice.remove() }));
  document.body.append(notice);
}

// --- What is seen ---------------------------------------------------------------------------------------------------

function showPane(pane) {
  byId("work").dataset.pane = pane;
  byId("show-image").setAttribute("aria-pressed", String(pane === "image"));
  byId("show-dialog").setAttribute("aria-pressed", String(pane === "dialog"));
  if (pane === "dialog") show(byId("dialog-news"), false);
}
byId("show-image").addEventListener("click", () => showPane("image"));
byId("show-dialog").addEventListener("click", () => showPane("dialog"));

function closeList() {
  document.body.classList.remove("list-open");
  byId("open-list").setAttribute("aria-expanded", "false");
}
byId("open-list").addEventListener("click", () => {
  const open = document.body.classList.toggle("list-open");
  byId("open-list").setAttribute("aria-expanded", String(open));
  if (open) byId("new").focus();
});
byId("backdrop").addEventListener("click", closeList);
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.body.classList.contains("list-open")) return;
  closeList();
  byId("open-list").focus();
});

byId("skip").addEventListener("click", (event) => {
  // The address's hash names the conversation.
  event.preventDefault();
  byId("main").focus();
});

function theme(choice) {
  const root = document.documentElement;
  if (choice === "auto") delete root.dataset.theme;
  else root.dataset.theme = choice;
  try {
    localStorage.setItem(THEME, choice);
  } catch {
    // It lasts until the page is closed.
  }
  const [name, label] = THEMES[choice];
  Object.assign(byId("theme"), { title: label, ariaLabel: label });
  byId("theme").replaceChildren(icon(name));
}
byId("theme").addEventListener("click", () => {
  const choices = Object.keys(THEMES);
  theme(choices[(choices.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % choices.length]);
});
theme(document.documentElement.dataset.theme ?? "auto");

addEventListener("hashchange", route);
addEventListener("beforeunload", (event) => {
  // What is typed but not sent would be lost; answers go on without the page.
  if ([...store.drafts.values()].some((text) => text.trim() !== "")) event.preventDefault();
});

store.keepFresh();
await Promise.all([store.refresh().catch((error) => !store.view && openId() === null && tell(explain(error))), route()]);

// Random weights and small models make words, too; nobody must take them for a report.
const served = await models.load().catch(() => []);
show(byId("random"), served.some((model) => model.random_weights));
show(byId("demo"), served.some(({ id }) => id.startsWith("demo")));
