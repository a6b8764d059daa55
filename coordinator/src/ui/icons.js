// The page's icons, 24 x 24, drawn with the text's colour. They are built as elements: an icon font would be a remote
// or binary asset, and an external SVG sprite is treated differently by browsers under a Content-Security-Policy.

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  mark: "M12 3v18 M9.5 6.5C6.5 6.5 4.5 9 4.5 12.5v5.5c2.8 0 5-.8 5-3z M14.5 6.5c3 0 5 2.5 5 6v5.5c-2.8 0-5-.8-5-3z",
  list: "M4 6h16 M4 12h16 M4 18h10",
  plus: "M12 5v14 M5 12h14",
  close: "M6 6l12 12 M18 6L6 18",
  caution: "M12 4l9 16H3z M12 10v4.5 M12 17.3v.2",
  code: "M8.5 7L4 12l4.5 5 M15.5 7L20 12l-4.5 5 M13.5 5l-3 14",
  theme: "M12 3.5a8.5 8.5 0 1 0 0 17z M12 3.5a8.5 8.5 0 0 1 0 17",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z M12 2.5v2 M12 19.5v2 M2.5 12h2 M19.5 12h2 M5.3 5.3l1.4 1.4 M17.3 17.3l1.4 1.4 M5.3 18.7l1.4-1.4 M17.3 6.7l1.4-1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  image: "M4 5h16v14H4z M4 16l4.5-5 4 4 2.5-2.5 5 4.5 M15.5 9.3a.7.7 0 1 0 0-.01",
  trash: "M5 7h14 M9.5 7V4.5h5V7 M7 7l.8 12.5h8.4L17 7 M10.5 10.5v5.5 M13.5 10.5v5.5",
  contrast: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16z M12 4v16 M12 8h5.5 M12 12h8 M12 16h5.5",
  move: "M12 3.5v17 M3.5 12h17 M9.5 6L12 3.5 14.5 6 M9.5 18l2.5 2.5 2.5-2.5 M6 9.5L3.5 12 6 14.5 M18 9.5l2.5 2.5-2.5 2.5",
  zoomin: "M10.5 4.5a6 6 0 1 0 0 12 6 6 0 0 0 0-12z M15 15l5 5 M10.5 8v5 M8 10.5h5",
  zoomout: "M10.5 4.5a6 6 0 1 0 0 12 6 6 0 0 0 0-12z M15 15l5 5 M8 10.5h5",
  invert: "M5 5h14v14H5z M5 19L19 5 M9 19l10-10 M13.5 19l5.5-5.5",
  reset: "M5 5v5h5 M5.5 10a7.3 7.3 0 1 1-.6 4.5",
  down: "M12 5v13 M6.5 12.5L12 18l5.5-5.5",
  more: "M6 9l6 6 6-6",
  send: "M12 19V5 M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  pencil: "M4.5 19.5l1-4L16 5l3 3L8.5 18.5z M14 7l3 3",
  undo: "M8.5 5L4.5 9l4 4 M4.5 9H14a5 5 0 0 1 0 10H9",
  good: "M7 10.5L11 3.5c1.6 0 2.4 1.2 2 2.8l-.8 3.2H18a2 2 0 0 1 2 2.3l-1 6A2 2 0 0 1 17 19.5H7z M3.5 10.5H7v9H3.5z",
  bad: "M7 13.5L11 20.5c1.6 0 2.4-1.2 2-2.8l-.8-3.2H18a2 2 0 0 0 2-2.3l-1-6A2 2 0 0 0 17 4.5H7z M3.5 13.5H7v-9H3.5z",
  copy: "M9 9h10v11H9z M5 15V4h10",
  download: "M12 4v11 M7 10.5L12 15.5l5-5 M5 20h14",
  check: "M5 12.5l4.5 4.5L19 7.5",
  chat: "M4 5h16v11H10.5L6.5 20v-4H4z",
  report: "M6 3.5h8.5L18.5 7.5V20.5H6z M14 3.5V8h4.5 M9 12h6.5 M9 15.5h6.5",
  key: "M8 11a4 4 0 1 0 0 8 4 4 0 0 0 0-8z M11 12.5L19.5 4 M16 7.5l3 3",
  speaker: "M4 9.5h3.5L12 5.5v13l-4.5-4H4z M15.5 9a4.2 4.2 0 0 1 0 6 M18 6.5a7.8 7.8 0 0 1 0 11",
  microphone: "M12 3.5a2.8 2.8 0 0 0-2.8 2.8v5a2.8 2.8 0 0 0 5.6 0v-5A2.8 2.8 0 0 0 12 3.5z M6 11a6 6 0 0 0 12 0 M12 17v3.5 M9 20.5h6",
  wifi: "M4 9.5a12 12 0 0 1 16 0 M7 13a7.5 7.5 0 0 1 10 0 M10 16.3a3 3 0 0 1 4 0 M12 19.3v.2",
};

/** A new icon element; hidden from screen readers, since the label says it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("focusable", "false");
  svg.classList.add("icon");
  svg.dataset.name = name;
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name] ?? "");
  svg.append(path);
  return svg;
}

/** Gives every element with `data-icon` below `root` its icon, in front of its text. */
export function fillIcons(root) {
  for (const place of root.querySelectorAll("[data-icon]")) {
    place.querySelector(":scope > svg.icon")?.remove();
    place.prepend(icon(place.dataset.icon));
  }
}
