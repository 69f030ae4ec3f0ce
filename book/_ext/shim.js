// Runs the book's widgets without a kernel: each placeholder names its module and carries its state.
(() => {
  const addresses = {};
  // Blob URLs, because pages opened from the disk may not import files; each module is loaded once.
  const address = (name) =>
    (addresses[name] ??= URL.createObjectURL(new Blob([linked(companionModules[name])], { type: "text/javascript" })));
  const linked = (text) => text.replace(/^(import .* from )"\.\/(\w+)\.js";$/gm, (_, start, name) => `${start}"${address(name)}";`);

  // The part of a Jupyter widget model that the modules use, in this page's memory.
  class Model {
    #values;
    #listeners = {};
    constructor(values) {
      this.#values = values;
    }
    get(name) {
      return this.#values[name];
    }
    set(name, value) {
      if (Object.is(this.#values[name], value)) return;
      this.#values[name] = value;
      for (const listener of this.#listeners[`change:${name}`] ?? []) listener();
    }
    save_changes() {}
    on(event, listener) {
      (this.#listeners[event] ??= new Set()).add(listener);
    }
    off(event, listener) {
      this.#listeners[event]?.delete(listener);
    }
  }

  async function start(el) {
    const { module, state } = el.dataset;
    try {
      const widget = (await import(address(module))).default;
      el.replaceChildren();
      widget.render({ model: new Model(JSON.parse(state)), el });
      el.dataset.ready = "";
    } catch (error) {
      console.error(`The widget ${module} did not start:`, error);
    }
  }

  const all = () => document.querySelectorAll(".companion-widget[data-module]").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
