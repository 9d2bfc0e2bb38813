/* A 3×3 kernel over a picture of 16×16 gray levels, for book/convolution.md. The words are that
   page's, in this order, so that they are translated with it; here are the numbers.
   No module, since a page on disk may not load one. */
(() => {
  "use strict";
  const box = document.getElementById("convolution");
  if (!box) return;
  const [ofPicture, ofMap, ofSum, help, legend, ofWeight, ready, ...names] = [
    ...box.querySelectorAll("li"),
  ].map((item) => item.textContent.trim());

  const SIZE = 16, OUT = SIZE - 2, WHITE = 9;
  const READY = [
    [0, 0, 0, 0, 1, 0, 0, 0, 0],
    [1, 2, 1, 2, 4, 2, 1, 2, 1].map((x) => x / 16),
    [-1, 0, 1, -1, 0, 1, -1, 0, 1],
    [0, -1, 0, -1, 5, -1, 0, -1, 0],
  ];
  let [row, column] = [4, 1]; // the window's upper left corner, which is the place in the map
  let kernel = READY[2];

  const range = (n) => [...Array(n).keys()];
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const show = (x) => String(Math.round(x * 1e4) / 1e4).replace("-", "−");
  const make = (tag, attributes = {}, ...inside) => {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.append(...inside);
    return element;
  };

  // A square, a ramp behind a slanted edge, and one bright pixel on an even ground.
  const gray = (r, c) => {
    if (r === 3 && c === 12) return WHITE;
    if (r >= 2 && r <= 8 && c >= 2 && c <= 7) return 8;
    return r + c > 22 ? Math.min(7, r + c - 20) : 1;
  };
  const picture = range(SIZE).map((r) => range(SIZE).map((c) => gray(r, c)));
  const pixelsAt = (r, c) => range(9).map((i) => picture[r + Math.floor(i / 3)][c + (i % 3)]);
  const sumAt = (r, c) => pixelsAt(r, c).reduce((sum, pixel, i) => sum + pixel * kernel[i], 0);

  /* Gray where nothing is negative, as in a picture; else blue below zero, red above. */
  const color = (value, low, high) => {
    const level = Math.round((255 * value) / Math.max(high, WHITE));
    if (low >= 0) return `rgb(${level}, ${level}, ${level})`;
    const far = Math.abs(value) / Math.max(high, -low);
    const end = value < 0 ? [33, 102, 172] : [178, 24, 43];
    return `rgb(${end.map((x) => Math.round(255 + far * (x - 255))).join(", ")})`;
  };

  /* A square of cells, a frame that marks some, and what a click on a cell does. */
  const squares = (side, framed, choose, attributes) => {
    const cells = range(side * side).map(() => make("span", { "aria-hidden": "true" }));
    const frame = make("i", { "aria-hidden": "true" });
    const grid = make("div", attributes, ...cells, frame);
    frame.style.width = frame.style.height = `${(100 * framed) / side}%`;
    grid.style.gridTemplateColumns = `repeat(${side}, 1fr)`;
    const mark = () => {
      frame.style.top = `${(100 * row) / side}%`;
      frame.style.left = `${(100 * column) / side}%`;
    };
    const point = (event) => {
      if (event.type === "pointermove" && !(event.pointerType === "mouse" && event.buttons)) return;
      const at = grid.getBoundingClientRect();
      const cell = (x, length) => Math.floor((x * side) / length);
      choose(cell(event.clientY - at.top, at.height), cell(event.clientX - at.left, at.width));
    };
    grid.addEventListener("pointerdown", point);
    grid.addEventListener("pointermove", point);
    return { grid, cells, mark };
  };

  const large = squares(SIZE, 3, (r, c) => move(r - 1, c - 1), {
    class: "conv-grid",
    role: "application", // arrow keys go to the script, not to a screen reader
    tabindex: "0",
    "aria-labelledby": "conv-picture",
    "aria-describedby": "conv-help",
  });
  const small = squares(OUT, 1, (r, c) => move(r, c), {
    class: "conv-grid conv-map",
    role: "img",
    "aria-labelledby": "conv-map",
  });
  picture.flat().forEach((value, i) => {
    const level = Math.round((255 * value) / WHITE);
    large.cells[i].textContent = value;
    large.cells[i].style.background = `rgb(${level}, ${level}, ${level})`;
    large.cells[i].style.color = value > 4 ? "#000" : "#fff";
  });

  const weights = range(9).map((i) => {
    const place = { row: Math.floor(i / 3), column: i % 3 };
    const label = { "aria-label": fill(ofWeight, place) };
    const input = make("input", { type: "number", step: "any", ...label });
    const [pixel, product] = [make("span"), make("b")];
    input.addEventListener("input", () => {
      kernel = weights.map((weight) => Number(weight.input.value) || 0); // empty counts as 0
      update();
    });
    return { input, pixel, product, cell: make("div", {}, pixel, input, product) };
  });
  const buttons = names.map((name, i) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => take(READY[i]));
    return button;
  });
  const span = make("p", { id: "conv-map" });
  const sum = make("p", { class: "conv-sum", role: "status", "aria-atomic": "true" });

  const update = () => {
    pixelsAt(row, column).forEach((pixel, i) => {
      weights[i].pixel.textContent = `${pixel} ×`;
      weights[i].product.textContent = `= ${show(pixel * kernel[i])}`;
    });
    const sums = range(OUT * OUT).map((i) => sumAt(Math.floor(i / OUT), i % OUT));
    const [low, high] = [Math.min(...sums), Math.max(...sums)];
    sums.forEach((value, i) => {
      small.cells[i].dataset.value = value;
      small.cells[i].style.background = color(value, low, high);
    });
    large.mark();
    small.mark();
    span.textContent = fill(ofMap, { low: show(low), high: show(high) });
    sum.textContent = fill(ofSum, { row, column, sum: show(sumAt(row, column)) });
    buttons.forEach((button, n) => {
      button.setAttribute("aria-pressed", READY[n].every((x, i) => x === kernel[i]));
    });
  };
  const move = (r, c) => {
    [row, column] = [r, c].map((x) => Math.max(0, Math.min(OUT - 1, x)));
    update();
  };
  const take = (chosen) => {
    kernel = chosen;
    weights.forEach(({ input }, i) => (input.value = kernel[i]));
    update();
  };

  large.grid.addEventListener("keydown", (event) => {
    const to = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [row, 0],
      End: [row, OUT - 1],
    }[event.key];
    if (!to || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation(); // else the book's own keys might turn the page
    move(...to);
  });

  const cells = weights.map(({ cell }) => cell);
  box.replaceChildren(
    make(
      "div",
      { class: "conv-pair" },
      make("div", {}, make("p", { id: "conv-picture" }, ofPicture), large.grid),
      make("div", {}, span, small.grid),
    ),
    sum,
    make("p", { id: "conv-help" }, help),
    make("fieldset", { class: "conv-kernel" }, make("legend", {}, legend), ...cells),
    make("div", { class: "conv-ready", role: "group", "aria-label": ready }, ...buttons),
  );
  box.className = "conv";
  box.hidden = false;
  take(kernel);
})();
