// The page Explore: takes a question from the form or the address, and shows what the library answered.
// Every number was computed by the library: at build time (the table), or by the engine, which is the library itself.
"use strict";
(async () => {
  const here = document.currentScript.src;
  const $ = (id) => document.getElementById(id);
  const form = document.querySelector(".explore-form"), says = $("explore-says");

  // Texts of packed files are base64 of gzip: a page that is opened from a folder can read scripts, and nothing else.
  const unpack = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  };

  const table = await unpack(EXPLORE.table).json();
  const { axes, values } = table;
  const ACCELERATOR = ["preset", "crossbar", "cell_bits", "bits", "activation_bits"], EPITOME = ["rows", "cols", "wrap"];
  const SUMS = Object.keys(values).filter((name) => !name.startsWith("layer "));
  const LAYER = ["crossbars", "utilization", "latency", "energy"];

  // Return the answer of the table, or nothing if it lacks the question.
  function tabulated(question) {
    const epitome = question.design == "epitome" ? EPITOME : [];
    if (["network", "design", ...ACCELERATOR, ...epitome].some((name) => !axes[name].includes(question[name]))) return;
    const place = (names) => names.reduce((n, name) => n * axes[name].length + axes[name].indexOf(question[name]), 0);
    const accelerator = place(ACCELERATOR), last = table.layers[question.network].keys.length - 1;
    const design = epitome.length ? place(EPITOME) : last;
    const row = (metric) => values[metric].rows[values[metric].of[accelerator]];
    const column = axes.network.indexOf(question.network) * (last + 1) + design;
    const answer = Object.fromEntries(SUMS.map((name) => [name, row(name)[column]]));
    const { weighted, keys } = table.layers[question.network];
    const rows = LAYER.map((name) => row(`layer ${name}`));
    answer.layers = weighted.map((texts, i) => {
      const key = keys[design][i];
      return [...texts, table.epitomes[key], ...rows.map((row) => row[key])];
    });
    return answer;
  }

  const typed = (text) => (/^-?\d+$/.test(text) ? Number(text) : text);
  const fields = () => [...form.elements].filter((field) => field.name);
  const asked = () => Object.fromEntries(fields().map((field) => [field.name, typed(field.value)]));
  const counts = (question, name) => question.design != "dense" || !EPITOME.includes(name);
  const number = (value, digits) => value.toLocaleString("en", { maximumSignificantDigits: Number.isInteger(value) ? 21 : digits });

  let shown, asking = 0; // the answer that is shown; how many questions were asked
  let compute; // asks the engine, once it runs
  let link = ""; // the question of the address, if the table could not answer it

  async function ask() {
    const question = asked(), mine = ++asking;
    for (const field of fields()) field.disabled = !counts(question, field.name);
    history.replaceState(null, "", "#" + new URLSearchParams(Object.entries(question).filter(([name]) => counts(question, name))));
    const all = { ...question, design: "dense" };
    const answers = [tabulated(question) ?? (await compute(question)), tabulated(all) ?? (await compute(all))];
    if (mine == asking) show(question, ...answers);
  }

  function show(question, answer, dense) {
    const last = shown;
    shown = answer;
    if (answer.refused) says.textContent = `No answer: ${answer.refused}.`;
    else says.textContent = sentence(question, answer);
    for (const card of document.querySelectorAll(".explore-card")) {
      const put = (selector, word, from, skip) => {
        const value = from && !from.refused && !skip ? number(from[card.dataset.metric], 4) : null;
        card.querySelector(selector).textContent = value == null ? "" : word + value;
      };
      put("strong", "", answer);
      put(".explore-dense", "all dense: ", dense, question.design == "dense");
      put(".explore-before", "before: ", last);
    }
    layers(answer, dense);
    for (const place of document.querySelectorAll("[data-name]")) place.textContent = JSON.stringify(question[place.dataset.name]);
    for (const line of document.querySelectorAll("[data-design]")) line.hidden = line.dataset.design != question.design;
  }

  function sentence(question, answer) {
    const name = (field) => field.selectedOptions?.[0].textContent ?? field.value;
    const how = question.design == "dense" ? "all layers dense" : `epitomes of ${question.rows} × ${question.cols}`;
    return `${name(form.elements.network)}, ${how}: ${number(answer.crossbars)} crossbars, ${number(answer.factor, 4)} times fewer than ` +
      `a dense network with 32 bits. ${number(answer.latency, 4)} ms, ${number(answer.energy, 4)} mJ, ${number(answer.area, 4)} mm².`;
  }

  function layers(answer, dense) {
    const metric = LAYER.indexOf($("explore-metric").value) + 3;
    const rows = answer.refused ? [] : answer.layers, others = answer.refused || !dense || dense.refused ? [] : dense.layers;
    const top = Math.max(...[...rows, ...others].map((row) => row[metric]));
    const bar = (row, i, kind, gap) => `<rect class="${kind}" x="${i + gap}" y="${100 - (100 * row[metric]) / top}" width="${1 - 2 * gap}" height="${(100 * row[metric]) / top}"><title>${row[0]}: ${number(row[metric], 3)}</title></rect>`;
    const svg = $("explore-bars");
    svg.setAttribute("viewBox", `0 0 ${rows.length || 1} 100`);
    svg.innerHTML = `<title>A bar for each of ${rows.length} layers; the table below has the numbers.</title>` +
      others.map((row, i) => bar(row, i, "explore-of-dense", 0.05)).join("") + rows.map((row, i) => bar(row, i, "explore-of-this", 0.2)).join("");
    $("explore-layers").innerHTML = rows.map((row) => `<tr><th scope="row">${row[0]}</th>` +
      row.slice(1).map((cell) => `<td>${typeof cell == "number" ? number(cell, 3) : cell}</td>`).join("") + "</tr>").join("");
  }

  // Put the question of the address into the form; what it cannot hold is one sentence.
  async function read(query) {
    const wrong = [];
    for (const [name, value] of new URLSearchParams(query)) {
      const field = form.elements[name];
      const known = field?.options ? [...field.options].map((option) => option.value) : [value];
      if (!field) wrong.push(`there is no choice ${name}`);
      else if (known.includes(value)) field.value = value;
      else wrong.push(`${name}=${value} is not in the table, which has ${known.join(", ")}`);
    }
    link = wrong.length ? query : "";
    await ask();
    if (wrong.length) says.textContent = `Of the link, ${wrong.join(" and ")}. ${says.textContent}`;
  }

  // Python and the library, in a thread of their own: a function that is sent there as text.
  function engine() {
    const reply = (message) => self.postMessage(message);
    const script = (bytes) => importScripts(URL.createObjectURL(new Blob([bytes], { type: "text/javascript" })));
    let ask;
    async function start({ files, library }) {
      const types = { wasm: "application/wasm", json: "application/json" };
      self.fetch = async (request) => { // no host is asked: Pyodide gets what the page has
        const name = String(request.url ?? request).split("/").pop();
        if (!files[name]) throw new Error(`${name} is not among the files of the page`);
        return new Response(files[name], { headers: { "Content-Type": types[name.split(".").pop()] ?? "application/octet-stream" } });
      };
      script(files["pyodide.asm.js"]);
      script(files["pyodide.js"]);
      const python = await loadPyodide({ indexURL: "https://files.invalid/" });
      await python.loadPackage("numpy", { messageCallback() {} });
      for (const [path, text] of Object.entries(library.files)) {
        python.FS.mkdirTree(`/project/${path}`.replace(/\/[^/]*$/, ""));
        python.FS.writeFile(`/project/${path}`, text);
      }
      python.runPython("import sys; sys.path[:0] = ['/project', '/project/book/_ext']");
      ask = python.pyimport("explore_answer").asker(JSON.stringify(library.presets));
    }
    self.onmessage = async ({ data }) => {
      try {
        if (!ask) await start(data);
        reply(data.question ? ask(data.question) : "ready");
      } catch (error) {
        reply({ failed: String(error) });
      }
    };
  }

  async function fetched(name) {
    await new Promise((done, failed) => {
      const script = document.createElement("script");
      Object.assign(script, { src: new URL(`${name}?v=${$("explore-start").dataset.version}`, here), onload: done, onerror: () => failed(new Error(`${name} cannot be read`)) });
      document.head.append(script);
    });
  }

  // Start the engine, and let the form take any value.
  async function start() {
    const state = $("explore-state");
    $("explore-start").disabled = true;
    state.textContent = "Python starts …";
    try {
      await Promise.all(["explore_pyodide.js", "explore_library.js"].map(fetched));
      const library = await unpack(EXPLORE.library).json(), files = {};
      for (const [name, text] of Object.entries(EXPLORE.files)) files[name] = await unpack(text).arrayBuffer();
      delete EXPLORE.files;
      const worker = new Worker(URL.createObjectURL(new Blob([`(${engine})()`], { type: "text/javascript" })));
      const send = (message, moved) => new Promise((done, failed) => {
        worker.onmessage = ({ data }) => (data.failed ? failed(new Error(data.failed)) : done(data));
        worker.onerror = (event) => failed(new Error(event.message));
        worker.postMessage(message, moved);
      });
      await send({ files, library }, Object.values(files));
      let queue = Promise.resolve(); // one question after another
      compute = (question) => (queue = queue.then(async () => {
        state.textContent = "Python computes …";
        const begin = performance.now();
        const answer = await send({ question: JSON.stringify(question) }).then(JSON.parse, (error) => ({ refused: error.message }));
        state.textContent = `Computed by the library in this page, in ${Math.round(performance.now() - begin)} ms.`;
        return answer;
      }));
      free(library);
    } catch (error) {
      state.textContent = `Python did not start: ${error.message}`;
      return;
    }
    $("explore-start").remove();
    form.elements.bits.focus();
    state.textContent = "Python runs in this page: every field takes any value now.";
    $("explore").compute = compute; // for the tests
    await read(link || location.hash.slice(1));
  }

  // Lists of numbers become fields; the other lists get what the library has beside the table.
  function free(library) {
    const more = {
      network: Object.keys(library.files).filter((path) => path.startsWith("data/")).map((path) => path.slice(15, -5)),
      preset: Object.keys(library.presets),
    };
    for (const field of fields()) {
      if (field.name == "design") continue;
      for (const name of more[field.name] ?? []) {
        if (!axes[field.name].includes(name)) field.add(new Option(name));
      }
      if (more[field.name]) continue;
      const input = Object.assign(document.createElement("input"), { name: field.name, value: field.value, autocomplete: "off" });
      if (field.name != "wrap") input.inputMode = "numeric";
      field.replaceWith(input);
    }
  }

  $("explore").tabulated = tabulated; // for the tests
  form.addEventListener("change", ask);
  form.addEventListener("submit", (event) => event.preventDefault());
  $("explore-metric").addEventListener("change", ask);
  $("explore-start")?.addEventListener("click", start);
  addEventListener("hashchange", () => read(location.hash.slice(1)));
  read(location.hash.slice(1));
})();
