
const [words, finding, kind] = ["words", "finding", "kind"].map((id) => document.getElementById(id));
const studies = [...document.querySelectorAll("article")].map((item) => ({
  item,
  text: item.textContent.toLowerCase(),
  findings: item.dataset.findings.split("|"),
  kinds: item.dataset.kinds.split(" "),
}));
function filter() {
  const wanted = words.value.trim().toLowerCase();
  let shown = 0;
  for (const { item, text, findings, kinds } of studies) {
    const fits = text.includes(wanted)
      && (!finding.value || findings.includes(finding.value))
      && (!kind.value || kinds.includes(kind.value));
    item.hidden = !fits;
    shown += fits;
  }
  document.getElementById("count").textContent = `${shown} of ${studies.length} studies`;
  document.getElementById("none").hidden = shown > 0;
}
document.getElementById("filters").addEventListener("input", filter);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
filter();
