// Predictions: a form for every prompt with a definite answer, and the page that lists the guesses.
// A guess stays in this browser. Where the browser keeps nothing, prompts stay text and answers fold as all do.
"use strict";
(() => {
  const KEY = "epim-predictions";
  let kept;
  try {
    kept = window.localStorage;
    kept.setItem(`${KEY}-try`, "");
    kept.removeItem(`${KEY}-try`);
  } catch {
    return;
  }
  const guesses = () => JSON.parse(kept.getItem(KEY) ?? "{}");
  const make = (tag, attributes, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };
  const asked = (place) => JSON.parse(place.dataset.predict);

  // Return the number that a text means, or NaN: 1,000 and 0,5 and 1e-3 and 50% are numbers.
  function number(text) {
    const plain = text.replace(/[\s%]/g, "");
    const written = /^[-+]?\d{1,3}(,\d{3})+(\.\d+)?$/.test(plain) ? plain.replace(/,/g, "") : plain.replace(",", ".");
    return written ? Number(written) : NaN;
  }
  const text = (guess) => [guess].flat().join(", "); // of an order, which is a list
  const ratio = ({ kind, value }, { guess }) => (kind == "number" && value ? Number((number(guess) / value).toPrecision(2)) : null);
  const with_unit = (said, unit) => (unit ? `${text(said)}${unit == "%" ? "" : " "}${unit}` : text(said));
  const sentence = (data, said) => {
    const times = ratio(data, said);
    const end = times == null ? "" : `; guess / computed: ${times}`;
    return `Your guess: ${with_unit(said.guess, data.unit)}; computed: ${with_unit(data.answer, data.unit)}${end}.`;
  };

  // The fields of a form: their element, the guess in them (empty while there is none), how to put one there, and what
  // to do without one.
  const FIELDS = {
    number({ unit }) {
      const field = make("input", { type: "text", inputMode: "decimal", autocomplete: "off" });
      const read = () => (Number.isFinite(number(field.value)) ? field.value.replace(/[\s%]/g, "") : "");
      const put = (guess) => (field.value = guess);
      return { element: make("label", {}, "Your guess ", field, ` ${unit}`), read, put, hint: "A number is needed, such as 20 or 0.5 or 1e-3." };
    },
    choice({ id, items }, list) {
      const labels = [...list.children].map((item) => {
        const radio = make("input", { type: "radio", name: id });
        return make("label", {}, radio, make("span", {}, ...item.childNodes));
      });
      const element = make("fieldset", {}, make("legend", {}, "Your guess"), ...labels);
      list.remove();
      const read = () => items[labels.findIndex((label) => label.firstChild.checked)] ?? "";
      const put = (guess) => labels.forEach((label, at) => (label.firstChild.checked = items[at] == guess));
      return { element, read, put, hint: "Choose one first." };
    },
    order({ items }, list) {
      const rows = make("ol", {});
      [...list.children].forEach((item, at) => {
        const row = make("li", {}, make("span", {}, ...item.childNodes));
        row.dataset.item = items[at];
        const moves = make("span", { className: "predict-moves" });
        for (const [sign, word] of [["↑", "up"], ["↓", "down"]]) {
          const button = make("button", { type: "button" }, sign);
          button.setAttribute("aria-label", `${items[at]}: ${word}`);
          button.addEventListener("click", () => {
            if (word == "up") row.previousElementSibling?.before(row);
            else row.nextElementSibling?.after(row);
            button.focus();
          });
          moves.append(button);
        }
        row.append(moves);
        rows.append(row);
      });
      list.remove();
      const element = make("fieldset", {}, make("legend", {}, "Your guess: move them into their order"), rows);
      const read = () => [...rows.children].map((row) => row.dataset.item);
      const put = (guess) => rows.append(...guess.flatMap((item) => [...rows.children].filter((row) => row.dataset.item == item)));
      return { element, read, put };
    },
  };

  function prompt(place) {
    const data = asked(place), answer = place.parentElement.nextElementSibling;
    const summary = answer.querySelector("summary");
    const { element, read, put, hint } = FIELDS[data.kind](data, place.parentElement.querySelector(":scope > ul"));
    const says = make("p", { className: "predict-says" });
    says.setAttribute("role", "status");
    const send = make("button", { type: "submit" }, "This is my guess");
    const anyway = make("button", { type: "button", className: "predict-anyway" }, "Show me anyway");
    const form = make("form", { noValidate: true }, element, make("p", { className: "predict-buttons" }, send, anyway), says);
    place.replaceChildren(form);
    place.hidden = false;
    answer.classList.add("predict-closed");

    function unlock() {
      answer.classList.remove("predict-closed");
      says.textContent = "";
    }
    function show(said) {
      unlock();
      put(said.guess);
      for (const field of form.elements) field.disabled = true;
      anyway.parentElement.remove();
      answer.querySelector(".sd-summary-content").prepend(make("p", { className: "predict-said" }, sentence(data, said)));
    }
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const guess = read();
      if (!guess) {
        says.textContent = hint;
        return;
      }
      const said = { guess, when: new Date().toISOString() };
      kept.setItem(KEY, JSON.stringify({ ...guesses(), [data.id]: said }));
      show(said);
      answer.open = true;
      summary.focus();
    });
    anyway.addEventListener("click", () => {
      unlock();
      answer.open = true;
      summary.focus();
    });
    summary.addEventListener("click", (event) => {
      if (!answer.classList.contains("predict-closed") || answer.open) return;
      event.preventDefault();
      says.textContent = "A guess first, or let it be shown anyway.";
      form.elements[data.kind == "number" ? 0 : 1].focus();
    });
    const said = guesses()[data.id];
    if (said) show(said);
  }

  function list(page) {
    const all = guesses(), made = [];
    const entries = [...page.querySelectorAll(".predict-entry")];
    for (const entry of entries) {
      const place = entry.querySelector(".predict-form"), data = asked(place), said = all[data.id];
      if (!said) continue;
      made.push({ chapter: data.chapter, question: data.question, guess: with_unit(said.guess, data.unit), computed: with_unit(data.answer, data.unit), "guess / computed": ratio(data, said), when: said.when });
      entry.classList.add("predict-guessed");
      place.after(make("p", { className: "predict-said" }, sentence(data, said)));
    }
    const button = (text, act) => {
      const made = make("button", { type: "button" }, text);
      made.addEventListener("click", act);
      return made;
    };
    const save = () => {
      const file = new Blob([JSON.stringify(made, null, 1) + "\n"], { type: "application/json" });
      const link = make("a", { href: URL.createObjectURL(file), download: "predictions.json" });
      link.click();
    };
    const clear = () => {
      if (!confirm("Remove all your guesses from this browser?")) return;
      kept.removeItem(KEY);
      location.reload();
    };
    const buttons = [button("Save as a file", save), button("Print", () => print()), button("Remove all", clear)];
    for (const each of buttons) each.disabled = !made.length;
    const count = make("p", { className: "predict-says" }, `${made.length} of ${entries.length} predictions made in this browser.`);
    page.prepend(count, make("p", { className: "predict-buttons" }, ...buttons));
    document.querySelector(".predict-needs")?.remove();
  }

  for (const place of document.querySelectorAll(".admonition.predict > .predict-form")) prompt(place);
  const page = document.querySelector(".predict-list");
  if (page) list(page);
})();
