// Sets the theme before the first paint, which a module would be too late for. "auto" follows the system.
(() => {
  let theme = "auto";
  try {
    theme = localStorage.getItem("radialog.theme") || "auto";
  } catch {
    // No storage: the system's choice it is.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
