"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const hidden = new Set(); // slots of the methods that are not shown
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const every = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // Plots. Plotly reads a little HTML in every text: what runs bring along must not be any.
  const plain = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function faded(hex, alpha) {
    const number = parseInt(hex.slice(1), 16);
    return `rgba(${number >> 16},${(number >> 8) & 255},${number & 255},${alpha})`;
  }

  // The outlines of a band: one for each stretch of points that have intervals.
  function outlines(series) {
    const found = [];
    let part = [];
    series.x.forEach((x, i) => {
      if (series.low[i] === null || series.low[i] === undefined) {
        if (part.length) found.push(part);
        part = [];
      } else part.push(i);
    });
    if (part.length) found.push(part);
    return found.map((places) => ({
      x: [...places, ...places.slice().reverse()].map((i) => series.x[i]),
      y: [
        ...places.map((i) => series.high[i]),
        ...places.slice().reverse().map((i) => series.low[i]),
      ],
    }));
  }

  function traces(figure) {
    const drawn = [];
    for (const series of figure.series) {
      const ink = series.kind === "front" ? colour("--front") : colour(`--m${series.colour}`);
      const visible = series.kind === "front" || !hidden.has(series.slot);
      const common = { type: "scatter", showlegend: false, visible, x: series.x, y: series.y };
      const hovertext = series.hover.map((lines) => lines.map(plain).join("<br>"));
      if (series.kind === "front") {
        const line = { color: ink, width: 6, shape: "hv" };
        drawn.push({ ...common, mode: "lines", line, hoverinfo: "skip" });
      } else if (series.kind === "guide") {
        const line = { color: ink, width: 1.5, dash: "dot" };
        drawn.push({ ...common, mode: "lines", line, hoverinfo: "skip" });
      } else if (series.kind === "above" || series.kind === "below") {
        drawn.push({
          ...common,
          mode: "markers",
          cliponaxis: false,
          hovertext,
          hovertemplate: "%{hovertext}<extra></extra>",
          marker: {
            symbol: series.kind === "above" ? "triangle-up-open" : "triangle-down-open",
            size: 12,
            color: ink,
            line: { color: ink, width: 2 },
          },
        });
      } else if (series.kind === "points") {
        drawn.push({
          ...common,
          mode: series.tags.some((tag) => tag) ? "markers+text" : "markers",
          text: series.tags.map(plain),
          textposition: series.tag_place,
          textfont: { size: 10, color: colour("--muted") },
          cliponaxis: false,
          hovertext,
          hovertemplate: "%{hovertext}<extra></extra>",
          marker: {
            symbol: series.hollow.map((open) => series.symbol + (open ? "-open" : "")),
            size: 12,
            color: ink,
            line: { color: ink, width: 2 },
          },
        });
      } else {
        for (const outline of outlines(series)) {
          drawn.push({
            ...common,
            ...outline,
            mode: "lines",
            fill: "toself",
            fillcolor: faded(ink, 0.13),
            line: { width: 0 },
            hoverinfo: "skip",
          });
        }
        drawn.push({
          ...common,
          mode: "lines+markers",
          hovertext,
          hovertemplate: "%{hovertext}<extra></extra>",
          line: { color: ink, width: 2 },
          marker: { symbol: series.symbol, size: 7, color: ink },
        });
      }
    }
    return drawn;
  }

  function layout(figure, width) {
    const axis = {
      gridcolor: colour("--grid"),
      linecolor: colour("--rule"),
      zeroline: false,
      automargin: true,
      ticks: "outside",
      tickcolor: colour("--rule"),
      ticklen: 4,
      title: { font: { size: 12, color: colour("--muted") }, standoff: 8 },
    };
    const x = { ...axis, showgrid: false, showline: true };
    x.title = { ...axis.title, text: plain(figure.x_title) };
    if (figure.ticks.length) {
      // As many labels as there is room for.
      const step = Math.ceil((figure.ticks.length * 30) / Math.max(width - 70, 100));
      x.tickvals = figure.ticks.map((_, i) => i);
      x.ticktext = figure.ticks.map((text, i) => (i % step ? "" : text));
      x.tickangle = 0;
      x.range = [-0.4, figure.ticks.length - 0.6];
    } else {
      x.type = figure.x_log ? "log" : "linear";
      if (!figure.x_log) x.rangemode = "tozero";
      if (figure.x_log) x.dtick = "D2";
      if (figure.x_ticks.length) {
        x.tickvals = figure.x_ticks.map(([value]) => value);
        x.ticktext = figure.x_ticks.map(([, label]) => label);
      }
      x.tickformat = figure.x_prefixes ? "~s" : "~g";
      if (figure.x_range) x.range = figure.x_log ? figure.x_range.map(Math.log10) : figure.x_range;
      x.nticks = Math.max(3, Math.floor(width / 65));
    }
    const y = { ...axis, range: figure.y_range, ticks: "" };
    y.title = { ...axis.title, text: plain(figure.y_title) };
    const zero = {
      type: "line",
      xref: "paper",
      x0: 0,
      x1: 1,
      y0: 0,
      y1: 0,
      line: { color: colour("--muted"), width: 1 },
      layer: "below",
    };
    const family = getComputedStyle(document.body).fontFamily;
    return {
      xaxis: x,
      yaxis: y,
      width,
      height: Math.round(Math.min(400, Math.max(290, width * 0.75))),
      margin: { l: 52, r: 14, t: 14, b: 44 },
      font: { family, size: 12, color: colour("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hovermode: "closest",
      hoverlabel: {
        align: "left",
        bgcolor: colour("--raised"),
        bordercolor: colour("--rule"),
        font: { family, size: 12, color: colour("--ink") },
      },
      modebar: {
        bgcolor: "rgba(0,0,0,0)",
        color: colour("--muted"),
        activecolor: colour("--ink"),
      },
      // A finger that scrolls the page must not zoom a plot.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      shapes: figure.zero ? [zero] : [],
    };
  }

  const options = {
    displaylogo: false,
    displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };

  function draw(width) {
    for (const canvas of every(".canvas")) {
      const figure = data.figures[canvas.dataset.figure];
      const wide = width || canvas.clientWidth || 320;
      Plotly.react(canvas, traces(figure), layout(figure, wide), options);
    }
  }

  // A method is shown or hidden everywhere.
  for (const key of every(".key")) {
    key.addEventListener("click", () => {
      const slot = Number(key.dataset.slot);
      if (!hidden.delete(slot)) hidden.add(slot);
      for (const other of every(`.key[data-slot="${slot}"]`)) {
        other.setAttribute("aria-pressed", String(!hidden.has(slot)));
      }
      draw();
    });
  }

  // Tables.
  function compared(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  }

  function sort(head) {
    const table = head.closest("table");
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of every("th", table)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const body = table.tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === ""); // unknown: last, either way
      return falling ? compared(b, a) : compared(a, b);
    });
    body.append(...rows);
  }

  for (const head of every("th")) {
    head.querySelector("button").addEventListener("click", () => sort(head));
  }

  for (const box of every("figure.table")) {
    const input = box.querySelector("input");
    const rows = every("tbody tr", box);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      box.querySelector("output").textContent = words.length ? `${shown} of ${rows.length}` : "";
    });
  }

  // A box that has columns beyond its right edge says so.
  const beyond = new ResizeObserver((entries) => entries.forEach(({ target }) => edge(target)));
  function edge(box) {
    const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.closest("figure").classList.toggle("more", left > 1);
  }
  for (const box of every(".scroll")) {
    beyond.observe(box);
    box.addEventListener("scroll", () => edge(box), { passive: true });
  }

  // Excerpts, coloured by the gain of each token.
  const STEPS = 4;
  const signed = (thousandths) => (thousandths > 0 ? "+" : "") + (thousandths / 1000).toFixed(3);

  function shade(gain) {
    if (gain === null) return "g0";
    const step = Math.min(STEPS, Math.round((STEPS * Math.abs(gain)) / (1000 * data.scale)));
    return step === 0 ? "g0" : (gain > 0 ? "g" : "l") + step;
  }

  for (const viewer of every(".viewer")) {
    const excerpts = data.excerpts[Number(viewer.dataset.setting)];
    const select = viewer.querySelector("select");
    const text = viewer.querySelector(".text");
    const readout = viewer.querySelector(".readout");
    const first = readout.textContent;
    let shown = excerpts[0];

    const show = () => {
      shown = excerpts[Number(select.value)];
      const last = shown.first + shown.pieces.length - 1;
      viewer.querySelector(".meta").textContent =
        `${shown.document}: ${shown.rank} with ${shown.spec}, ${shown.gain > 0 ? "+" : ""}` +
        `${shown.gain} nats/token over the whole document; tokens ${shown.first} to ${last} of ${shown.of}`;
      text.replaceChildren(
        ...shown.pieces.map((piece, place) => {
          const span = document.createElement("span");
          span.textContent = piece;
          span.className = shade(shown.gains[place]);
          span.dataset.place = place;
          return span;
        }),
      );
      text.scrollTop = 0;
      readout.textContent = first;
    };

    const read = (event) => {
      const place = event.target.dataset.place;
      if (place === undefined) return;
      for (const other of every(".chosen", text)) other.classList.remove("chosen");
      event.target.classList.add("chosen");
      const [before, gain] = [shown.before[place], shown.gains[place]];
      const token = JSON.stringify(shown.pieces[place]);
      readout.textContent =
        before === null
          ? `${token} is not scored`
          : `${token}: ${signed(gain)} nats; loss ${(before / 1000).toFixed(3)} with ` +
            `${data.baseline}, ${((before - gain) / 1000).toFixed(3)} with ${shown.spec}`;
    };

    select.addEventListener("change", show);
    text.addEventListener("pointerover", read);
    text.addEventListener("click", read);
    show();
  }

  // Screen, dark screen, narrow screen, paper.
  const PAPER = 330; // CSS pixels; two plots side by side on A4
  let wait = 0;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar changes the height alone
    width = innerWidth;
    clearTimeout(wait);
    wait = setTimeout(draw, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => {
    root.classList.add("paper");
    draw(PAPER);
  });
  addEventListener("afterprint", () => {
    root.classList.remove("paper");
    draw();
  });
  draw();
})();
