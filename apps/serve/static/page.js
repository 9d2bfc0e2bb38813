const at = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
let running = new AbortController(); // a new picture ends the wait for the one before
let limit = Infinity;

function show({ error = "", status = "", predictions = null }) {
  at("error").hidden = !error;
  at("error").textContent = error;
  at("status").textContent = status;
  at("answer").hidden = !predictions;
  at("bars").replaceChildren(...(predictions ?? []).map((found) => {
    const row = document.createElement("li");
    const [name, share, bar] = ["span", "span", "progress"].map((tag) => row.appendChild(document.createElement(tag)));
    name.textContent = found.class;
    share.textContent = percent.format(found.probability);
    bar.value = found.probability;
    bar.ariaHidden = "true"; // the number beside it says the same
    return row;
  }));
}

async function ask(file) {
  running.abort();
  const mine = (running = new AbortController());
  if (!file) return;
  if (file.size > limit) return show({ error: `${file.name} is larger than ${limit / 1e6} MB. Make it smaller.` });
  show({ status: `Looking at ${file.name} …` });
  try {
    const form = new FormData();
    form.append("file", file);
    const response = await fetch("predict", { method: "POST", body: form, signal: mine.signal });
    const answer = await response.json();
    if (!response.ok) return show({ error: `${file.name}: ${answer.error}` });
    const picture = at("shown");
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(file);
    picture.alt = `Your picture, ${file.name}`;
    const best = answer.predictions[0];
    show({ status: `Most likely: ${best.class}, ${percent.format(best.probability)}.`, predictions: answer.predictions });
  } catch (error) {
    if (error.name !== "AbortError") show({ error: "The server does not answer. Is it running?" });
  }
}

at("file").addEventListener("change", (event) => ask(event.target.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // anywhere on the page: a near miss must not leave it
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") ask(event.dataTransfer.files[0]);
  });
}

fetch("health").then((response) => response.json()).then((found) => {
  limit = found.max_bytes;
  at("about").textContent =
    `The network ${found.model} sees the middle square, at ${found.input_size} × ${found.input_size} pixels. ` +
    `It knows ${found.classes.length} classes (${found.classes.slice(0, 20).join(", ")}${found.classes.length > 20 ? ", …" : ""}) ` +
    `and names some of them whatever it is shown. Files of up to ${limit / 1e6} MB.`;
}).catch(() => show({ error: "The server does not answer. Is it running?" }));
