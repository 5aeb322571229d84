// Light or dark as the reader's system says, until the key D or the button chooses; paper is white.
const page = document.documentElement;
const asked = new URLSearchParams(location.search);
const print = asked.has("print-pdf");
const dark = matchMedia("(prefers-color-scheme: dark)");
const show = isDark => { page.dataset.theme = isDark ? "dark" : "light"; };
const change = () => show(page.dataset.theme == "light");
show(dark.matches && !print);
dark.addEventListener("change", () => show(dark.matches && !print));

// The sizes of formulas must not depend on slides that are not shown yet. What width an equation with a number needs,
// MathJax knows before it is drawn.
const measure = () => document.querySelectorAll(".equation mjx-container").forEach(
  equation => equation.parentElement.style.setProperty("--need", parseFloat(equation.style.minWidth)));
window.MathJax = {
  chtml: { matchFontHeight: false, scale: 1.1 },
  options: { enableMenu: false },
  startup: { pageReady: () => MathJax.startup.defaultPageReady().then(measure) },
};

// A deck has the shape of the window: 16:9, or 4:3.
const size = () => {
  const narrow = innerWidth / innerHeight < 1.5;
  page.classList.toggle("narrow", narrow);
  return { width: narrow ? 960 : 1280, height: 720 };
};

if (print) { // every slide is a page, with all its steps, and so are its notes if the address ends with &notes
  const style = document.head.appendChild(document.createElement("style"));
  const fit = () => {
    const { width, height } = size();
    style.textContent = `@page { size: ${width}px ${height}px; margin: 0; } :root { --width: ${width}px; }`;
  };
  fit();
  addEventListener("resize", () => { if (!matchMedia("print").matches) fit(); });
  page.classList.add("print-pdf");
  if (asked.has("notes"))
    document.querySelectorAll("aside.notes").forEach(notes => notes.parentElement.after(notes));
} else if (window.Reveal) {
  Reveal.initialize({
    ...size(), margin: 0, center: false, hash: true, slideNumber: "c/t", transition: "none", plugins: [RevealNotes],
  });
  addEventListener("resize", () => Reveal.configure(size()));
  Reveal.addKeyBinding({ keyCode: 68, key: "D", description: "Light or dark" }, change);
  document.getElementById("scheme").addEventListener("click", change);
}
