"use strict";
(() => {
  const data = JSON.parse(document.getElementById("lab-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const shorts = (text) => new Int16Array(bytes(text).buffer);
  const signed = (text) => new Int8Array(bytes(text).buffer);
  const byId = (id) => document.getElementById(id);
  const slider = byId("lab-time"), clock = byId("lab-clock"), trails = byId("lab-trails"), ground = byId("lab-ground");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const last = data.frames - 1;
  const grounds = data.densities.map(bytes);
  const ramps = { light: bytes(data.ramps.light), dark: bytes(data.ramps.dark) };
  const fields = Object.fromEntries(Object.entries(data.fields).map(([name, text]) => [name, signed(text)]));
  const runs = data.runs.map((run) => ({ ...run, x: shorts(run.x) }));
  const scratch = document.createElement("canvas");
  scratch.width = scratch.height = data.cells;
  const brush = scratch.getContext("2d");
  const pixels = brush.createImageData(data.cells, data.cells);

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const place = (value, size) => (value / data.half + 1) * 0.5 * size;

  // The density between two frames, as a picture; `depth` below 1 leaves room for what is drawn over it.
  function paint(context, size, which, at, depth) {
    const ramp = dark.matches ? ramps.dark : ramps.light;
    const values = grounds[which], n = data.cells, all = n * n;
    const k = Math.min(Math.floor(at), last), next = Math.min(k + 1, last), share = at - k;
    for (let row = 0; row < n; row++) {
      for (let column = 0; column < n; column++) {
        const from = row * n + column, to = 4 * ((n - 1 - row) * n + column);
        const value = values[k * all + from] * (1 - share) + values[next * all + from] * share;
        const shade = 3 * Math.round(value * depth);
        pixels.data[to] = ramp[shade];
        pixels.data[to + 1] = ramp[shade + 1];
        pixels.data[to + 2] = ramp[shade + 2];
        pixels.data[to + 3] = 255;
      }
    }
    brush.putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(scratch, 0, 0, size, size);
  }

  function arrows(context, size, name, at) {
    const values = fields[name], n = data.arrows, cell = size / n;
    const k = Math.round(at) * n * n * 2;
    context.strokeStyle = context.fillStyle = colour("vermilion");
    context.lineWidth = Math.max(1.2, size / 380);
    context.lineCap = "round";
    for (let i = 0; i < n * n; i++) {
      const dx = (values[k + 2 * i] / 127) * 1.25 * cell, dy = (-values[k + 2 * i + 1] / 127) * 1.25 * cell;
      const length = Math.hypot(dx, dy);
      if (length < 0.5) continue;
      const x = ((i % n) + 0.5) * cell, y = (n - Math.floor(i / n) - 0.5) * cell;
      const head = Math.min(0.4 * cell, 0.5 * length), ux = dx / length, uy = dy / length;
      const tipX = x + dx / 2, tipY = y + dy / 2;
      context.beginPath();
      context.moveTo(x - dx / 2, y - dy / 2);
      context.lineTo(tipX - ux * head * 0.8, tipY - uy * head * 0.8);
      context.stroke();
      context.beginPath();
      context.moveTo(tipX, tipY);
      context.lineTo(tipX - ux * head - uy * head * 0.45, tipY - uy * head + ux * head * 0.45);
      context.lineTo(tipX - ux * head + uy * head * 0.45, tipY - uy * head - ux * head * 0.45);
      context.fill();
    }
  }

  // The run's position at a frame: the last step taken before it, and the way to the next.
  function standing(run, at) {
    let step = 0;
    while (step < run.at.length - 2 && run.at[step + 1] >= at) step++;
    const gap = run.at[step] - run.at[step + 1];
    return [step, gap > 0 ? Math.min(1, Math.max(0, (run.at[step] - at) / gap)) : 1];
  }

  function points(context, size, run, at) {
    const count = data.points, x = run.x, unit = data.unit;
    const [step, share] = standing(run, at);
    const where = (s, i, axis) => x[(s * count + i) * 2 + axis] * unit;
    const now = (i, axis) => where(step, i, axis) * (1 - share) + where(step + 1, i, axis) * share;
    const screen = (i, axis, value) => (axis ? size - place(value, size) : place(value, size));
    if (trails.checked) {
      context.lineWidth = Math.max(1.2, size / 300);
      context.lineJoin = "round";
      context.globalAlpha = 0.75;
      for (const i of run.tracked) {
        context.strokeStyle = data.colours[i];
        context.beginPath();
        context.moveTo(screen(i, 0, where(0, i, 0)), screen(i, 1, where(0, i, 1)));
        for (let s = 1; s <= step; s++) context.lineTo(screen(i, 0, where(s, i, 0)), screen(i, 1, where(s, i, 1)));
        context.lineTo(screen(i, 0, now(i, 0)), screen(i, 1, now(i, 1)));
        context.stroke();
      }
      context.globalAlpha = 1;
    }
    context.strokeStyle = colour("paper");
    context.lineWidth = Math.max(0.8, size / 600);
    for (let i = 0; i < count; i++) {
      context.fillStyle = data.colours[i];
      context.beginPath();
      context.arc(screen(i, 0, now(i, 0)), screen(i, 1, now(i, 1)), Math.max(2.2, size / 115), 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }

  function draw() {
    const at = Number(slider.value), k = Math.round(at);
    const arrow = document.querySelector("input[name=lab-field]:checked").value;
    const at_k = data.levels[k];
    const text = `t = ${at_k.t.toFixed(2)}, α = ${at_k.alpha.toFixed(2)}, σ = ${at_k.sigma.toPrecision(3)}`;
    clock.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    for (const canvas of document.querySelectorAll("canvas[data-panel]")) {
      const size = Math.round(canvas.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
      if (!size) continue;
      if (canvas.width !== size) canvas.width = canvas.height = size;
      const context = canvas.getContext("2d");
      if (canvas.dataset.panel === "forward") {
        paint(context, size, 0, at, arrow in fields ? 0.5 : 1);
        if (arrow in fields) arrows(context, size, arrow, at);
        continue;
      }
      const run = runs[Number(canvas.dataset.panel)];
      paint(context, size, run.density, at, ground.checked ? 0.42 : 0);
      points(context, size, run, at);
    }
  }

  let playing = 0;
  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    for (const button of document.querySelectorAll("button[data-way]")) button.setAttribute("aria-pressed", "false");
  }
  function play(button) {
    const same = button.getAttribute("aria-pressed") === "true";
    stop();
    if (same) return;
    button.setAttribute("aria-pressed", "true");
    const way = Number(button.dataset.way);
    let from = Number(slider.value), began = null;
    if ((way > 0 && from >= last) || (way < 0 && from <= 0)) from = way > 0 ? 0 : last;
    const frame = (now) => {
      began = began ?? now;
      const at = from + (way * (now - began) * last) / 6000;
      slider.value = Math.min(last, Math.max(0, at));
      draw();
      if (way > 0 ? at >= last : at <= 0) stop();
      else playing = requestAnimationFrame(frame);
    };
    playing = requestAnimationFrame(frame);
  }

  slider.addEventListener("input", () => { stop(); draw(); });
  for (const box of document.querySelectorAll("input[name=lab-field], #lab-trails, #lab-ground")) {
    box.addEventListener("change", draw);
  }
  for (const button of document.querySelectorAll("button[data-way]")) {
    button.addEventListener("click", () => play(button));
  }
  dark.addEventListener("change", draw);
  new ResizeObserver(draw).observe(document.querySelector("main"));
  draw();
})();
