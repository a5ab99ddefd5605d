"""The report page's style sheet, its one script, and the content policy that allows nothing else."""

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfbfc;--fg:#1c2127;--soft:#5a6069;--line:#dfe2e7;
--panel:#fff;--link:#1f5fae;--warn:#fff4dc;--warnline:#c98a00}
@media (prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e4e7eb;--soft:#a2a9b3;--line:#333941;
--panel:#1d2126;--link:#8ab8f5;--warn:#35290c;--warnline:#d9a32e}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:70rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:2.4rem 0 .6rem;
padding-top:.8rem;border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.6rem 0 .5rem}
p,ul{max-width:46rem}.lead{font-size:1.1rem;color:var(--soft);margin:.2rem 0 1rem}
.strong{font-weight:600}.caption,figcaption{color:var(--soft);font-size:.86rem;max-width:46rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:.9rem;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:1.2rem 0 0;font-size:.92rem}
a{color:var(--link)}li{margin:.25rem 0}
.warning{background:var(--warn);border-left:4px solid var(--warnline);padding:.6rem 1rem .6rem 2rem;
border-radius:4px}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--panel)}
.long{max-height:36rem;overflow-y:auto}.long thead th{position:sticky;top:0;background:var(--panel);z-index:1}
.long thead th:first-child{z-index:2}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .6rem;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-weight:600;vertical-align:bottom}
th:first-child{text-align:left;position:sticky;left:0;background:var(--panel)}
figure{margin:1rem 0}figcaption{margin-top:.6rem}
td.text,th.text{text-align:left}.card{background:#fff;border:1px solid var(--line);border-radius:8px;
padding:.6rem;overflow-x:auto}.card img{display:block;width:100%;height:auto;margin:0 auto}
th button{all:unset;cursor:pointer;white-space:nowrap}th button::after{content:"\\2195";opacity:.35;
margin-left:.3em}th[aria-sort=ascending] button::after{content:"\\2191";opacity:1}
th[aria-sort=descending] button::after{content:"\\2193";opacity:1}
th button:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.answers,.limits{padding-left:0;list-style:none;max-width:60rem}.answers p{margin:0}
.answers li{display:grid;grid-template-columns:14.5rem 1fr;gap:.2rem 1rem;margin:0;padding:.45rem 0;
border-top:1px solid var(--line)}.answers p:first-child::first-letter{text-transform:uppercase}
.limits li{color:var(--soft);font-size:.9rem;padding-left:.8rem;border-left:3px solid var(--warnline)}
.tag{display:block;width:max-content;font-size:.75rem;font-weight:600;padding:.05rem .5rem;border-radius:1rem;
border:1px solid var(--line);color:var(--soft)}.tag.changed{background:var(--link);color:var(--bg);
border-color:var(--link)}.tag.cannot-be-said{border-style:dashed}
@media (max-width:40rem){main{padding:1rem .9rem 3rem}h1{font-size:1.4rem}
dl,.answers li{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}th,td{padding:.35rem .5rem}}
@media print{nav{display:none}.card,.scroll{overflow:visible;max-height:none}.card img{min-width:0!important}}
"""

# Numbers by size whatever follows them, words by alphabet, dashes last; a second click turns it round.
SCRIPT: Final = r"""
const key=cell=>{const text=cell.textContent.trim();
const plain=text.replace(/\u2212/g,"-").replace(/(\d),(?=\d{3})/g,"$1");
const found=plain.match(/^[+-]?\d[\d.]*(e[+-]?\d+)?(?=$|[\s%])/i);
return{text,missing:text==="\u2013"||text==="",value:found?parseFloat(found[0]):NaN}};
const compare=(a,b)=>isNaN(a.value)||isNaN(b.value)
?a.text.localeCompare(b.text,undefined,{numeric:true}):a.value-b.value;
for(const table of document.querySelectorAll("table")){
const heads=[...table.tHead.rows[0].cells],body=table.tBodies[0];
heads.forEach((head,column)=>{const button=document.createElement("button");
button.type="button";button.append(...head.childNodes);head.append(button);
head.setAttribute("aria-sort","none");
button.addEventListener("click",()=>{
const up=head.getAttribute("aria-sort")!=="ascending";
heads.forEach(other=>other.setAttribute("aria-sort","none"));
head.setAttribute("aria-sort",up?"ascending":"descending");
const rows=[...body.rows].map(row=>({row,...key(row.cells[column])}));
rows.sort((a,b)=>a.missing-b.missing||(up?compare(a,b):compare(b,a)));
body.append(...rows.map(item=>item.row))})})}
"""
_HASH: Final = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    + _HASH
    + "'"
)
