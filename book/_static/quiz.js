// Check yourself: compares an answer with those of its form, and says the reason that stands folded in the page.
"use strict";

for (const form of document.querySelectorAll("form.quiz")) {
  const button = form.querySelector(".quiz-check");
  const says = form.querySelector(".quiz-says");
  const ranges = JSON.parse(form.dataset.ranges);
  const reasons = form.querySelectorAll(".quiz-because");
  button.hidden = button.disabled = false;

  form.addEventListener("submit", (event) => {
    event.preventDefault(); // the browser itself asks for an answer where there is none
    const given = Number(new FormData(form).get("answer"));
    const at = ranges.length ? ranges.findIndex(([low, high]) => low <= given && given <= high) : given;
    const right = at === Number(form.dataset.right);
    const verdict = document.createElement("strong");
    verdict.textContent = right ? "Right. " : "No. ";
    const why = at < 0 ? ["Try once more, or look at the answer below."] : reasons[at].cloneNode(true).childNodes;
    says.replaceChildren(verdict, ...why);
    says.dataset.right = right;
  });

  form.addEventListener("input", () => {
    says.replaceChildren();
    delete says.dataset.right;
  });
}
