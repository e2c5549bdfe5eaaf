/** Elements. Text only ever becomes text: nothing here, or anywhere in the page, turns a string into markup. */

/**
 * Makes an element.
 *
 * @param {string} tag
 * @param {Record<string, any>} [props] `class`; `on…` a listener; what is not a text an own property; everything else an attribute
 * @param {...(Node | string | null | undefined)} children
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "string") element.setAttribute(name, value);
    else if (value !== undefined && value !== null) /** @type {any} */ (element)[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button. One that shows a sign only says what it does to those who cannot see it, and to those who point at it. */
export function button(label, props = {}, sign = null) {
  const spoken = sign === null ? {} : { "aria-label": label, title: label };
  return el("button", { type: "button", ...spoken, ...props }, sign ?? label);
}

/** Calls once, soon, however often it is asked to. */
export function soon(run) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      run();
    });
  };
}

/**
 * Makes the children of an element those of a list, keeping the elements of items that did not change.
 *
 * @param {Element} parent
 * @param {{ key: string }[]} items plain values
 * @param {(item: any) => Element} make
 */
export function list(parent, items, make) {
  const known = new Map([...parent.children].map((child) => [/** @type {any} */ (child).itemKey, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const stamp = JSON.stringify(item);
    let child = /** @type {any} */ (known.get(item.key));
    known.delete(item.key);
    if (child?.itemStamp !== stamp) {
      const fresh = Object.assign(make(item), { itemKey: item.key, itemStamp: stamp });
      if (child === next) next = next?.nextElementSibling ?? null;
      child?.remove();
      child = fresh;
    }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  for (const gone of known.values()) gone.remove();
}

/** A circle with the first letter of a name, in the name's own colour. */
export function avatar(name) {
  const letter = [...name.trim()][0] ?? "?";
  return el("span", { class: `avatar ${tint(name)}`, "aria-hidden": "true" }, letter.toUpperCase());
}

/** The class that brings a name's own colour. */
export function tint(name) {
  let hash = 0;
  for (const char of name) hash = (hash * 31 + char.codePointAt(0)) % 8;
  return `tint-${hash}`;
}
