// Draws the charts in the page's colours and at its width, light on paper, and reads them out to the arrow keys.
"use strict";
(() => {
  const NARROW = 640, PAPER = 660;
  // These buttons and no others: one of Plotly's would send the figures away.
  const CONFIG = {
    displaylogo: false,
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
    toImageButtonOptions: { format: "svg" },
  };
  const charts = [...document.querySelectorAll(".chart")].map((box) => ({
    box,
    figure: JSON.parse(box.nextElementSibling.textContent),
    says: box.parentElement.querySelector(".says"),
    at: null,
  }));
  const root = document.documentElement;

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  // A copy in which "var(--name)" is the colour of that name.
  const coloured = (value) => {
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    const name = typeof value === "string" && /^var\((--[\w-]+)\)$/.exec(value);
    return name ? colour(name[1]) : value;
  };

  const layout = (own, data, width) => {
    const named = data.filter((trace) => trace.type !== "heatmap" && trace.showlegend !== false).length;
    const below = width < NARROW;
    const height = (own.height || 420) + (below ? 22 * named : 0);
    const axis = { gridcolor: colour("--grid"), linecolor: colour("--faint"), zeroline: false, automargin: true, ticks: "outside", tickcolor: colour("--faint") };
    return {
      ...own,
      width,
      height: Math.max(height, below ? 0 : 80 + 21 * named),
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 60, r: 12, t: 28, b: 50 },
      xaxis: { ...axis, ...own.xaxis },
      yaxis: { ...axis, ...own.yaxis },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--accent") },
      hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--faint"), font: { color: colour("--ink") }, align: "left", namelength: -1 },
      legend: below ? { orientation: "v", x: 0, y: -0.2, yanchor: "top" } : { orientation: "v", x: 1.02, y: 1 },
      showlegend: named > 0,
    };
  };

  const draw = (chart) => {
    const { data, layout: own } = coloured(chart.figure);
    const width = root.classList.contains("printing") ? PAPER : Math.floor(chart.box.clientWidth);
    return Plotly.react(chart.box, data, layout(own, data, width), CONFIG);
  };
  const drawAll = () => Promise.all(charts.map(draw));

  const numbers = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
  const said = (value) => (typeof value === "number" ? numbers.format(value) : value);
  // The figure that the keys have come to: [trace, point], or [row, column] of a heat map.
  const point = ({ figure: { data }, at }) => {
    const map = data[0].type === "heatmap";
    const trace = map ? data[0] : data[at[0]];
    if (map) return { hover: { curveNumber: 0, pointNumber: at }, says: `${trace.y[at[0]]}, ${trace.x[at[1]]}: ${trace.text[at[0]][at[1]]}`, x: null };
    const text = trace.text && trace.text[at[1]] ? `, ${trace.text[at[1]]}` : "";
    return { hover: { curveNumber: at[0], pointNumber: at[1] }, says: `${trace.name}, at ${said(trace.x[at[1]])}: ${said(trace.y[at[1]])}${text}`, x: trace.x[at[1]] };
  };
  const sizes = ({ figure: { data }, at }) => (data[0].type === "heatmap" ? [data[0].y.length, data[0].x.length] : [data.length, data[at[0]].x.length]);
  const within = (value, size) => Math.min(Math.max(value, 0), size - 1);

  const move = (chart, down, right) => {
    if (chart.at === null) chart.at = [0, 0];
    else {
      chart.at = [within(chart.at[0] + down, sizes(chart)[0]), chart.at[1]];
      chart.at[1] = within(chart.at[1] + right, sizes(chart)[1]);
    }
    const { hover, says } = point(chart);
    Plotly.Fx.hover(chart.box, [hover]);
    chart.says.textContent = says;
  };
  const zoom = (chart, factor) => {
    const axis = chart.box._fullLayout.xaxis;
    if (axis.type === "category") return;
    const [low, high] = axis.range;
    const x = chart.at && point(chart).x;
    const middle = typeof x !== "number" ? (low + high) / 2 : axis.type === "log" ? Math.log10(x) : x;
    Plotly.relayout(chart.box, { "xaxis.range": [middle - (middle - low) * factor, middle + (high - middle) * factor] });
  };
  const KEYS = {
    ArrowLeft: (chart) => move(chart, 0, -1),
    ArrowRight: (chart) => move(chart, 0, 1),
    ArrowUp: (chart) => move(chart, -1, 0),
    ArrowDown: (chart) => move(chart, 1, 0),
    "+": (chart) => zoom(chart, 1 / 1.5),
    "=": (chart) => zoom(chart, 1 / 1.5),
    "-": (chart) => zoom(chart, 1.5),
    0: draw,
    Escape: (chart) => { Plotly.Fx.unhover(chart.box); chart.says.textContent = ""; chart.at = null; },
  };
  for (const chart of charts)
    chart.box.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      KEYS[event.key](chart);
    });

  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 100); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  const closed = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    opened = closed();
    for (const each of opened) each.open = true;
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    for (const each of opened) each.open = false;
    drawAll();
  });
  drawAll().then(() => root.classList.add("drawn"));
})();
