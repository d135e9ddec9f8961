// Sends an image to the server and shows the answer. What the server sends is only ever
// set as text, never as HTML.
"use strict";

const find = (id) => document.getElementById(id);
let lastImage = null;
let numSent = 0;

function add(parent, tag, text = "", className = "") {
  const element = parent.appendChild(document.createElement(tag));
  element.textContent = text;
  element.className = className;
  return element;
}

function report(text, className = "") {
  find("status").textContent = text;
  find("status").className = className;
}

async function receive(response) {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error(content.error || `The server answered ${response.status}`);
  }
  return content;
}

async function listModels() {
  const { models } = await receive(await fetch("v1/models"));
  for (const name of models) add(find("model"), "option", name);
  find("models").hidden = models.length === 1;
}

async function classify(image) {
  lastImage = image;
  const number = ++numSent;
  report("Classifying…");
  try {
    const path = `v1/models/${encodeURIComponent(find("model").value)}:explain`;
    const answer = await receive(await fetch(path, { method: "POST", body: image }));
    if (number !== numSent) return; // another image was sent meanwhile
    show(answer);
    report("");
  } catch (error) {
    if (number !== numSent) return;
    find("answer").hidden = true;
    report(error.message, "error");
  }
}

function show(answer) {
  find("image").src = answer.image;
  find("tasks").replaceChildren();
  for (const task of answer.tasks) {
    const section = add(find("tasks"), "section", "", "task");
    if (answer.tasks.length > 1) add(section, "h2", task.name);
    for (const one of task.classes) showClass(section, one);
    if (task.heatmap) showHeatmap(section, task);
  }
  find("answer").hidden = false;
}

function showClass(section, one) {
  const row = add(section, "div", "", one.applies ? "class applies" : "class");
  add(row, "span", one.class_name);
  add(row, "span", `${(100 * one.probability).toFixed(1)} %`);
  const bar = add(row, "progress");
  bar.value = one.probability;
  bar.setAttribute("aria-label", one.class_name);
}

function showHeatmap(section, task) {
  const figure = add(section, "figure");
  const image = add(figure, "img");
  image.src = task.heatmap;
  image.alt = "Heatmap";
  add(figure, "figcaption", `Bright parts speak for ${task.classes[0].class_name} (Grad-CAM)`);
}

for (const id of ["file", "camera"]) {
  find(id).addEventListener("change", (event) => {
    const [image] = event.target.files;
    if (image) classify(image);
    event.target.value = ""; // so that the same file can be chosen again
  });
}
find("model").addEventListener("change", () => lastImage && classify(lastImage));
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over", type === "dragover");
    const [image] = event.dataTransfer.files;
    if (type === "drop" && image) classify(image);
  });
}
// Phones and tablets have a camera that can be pointed at things.
find("photograph").hidden = navigator.maxTouchPoints === 0;
listModels().catch((error) => report(error.message, "error"));
