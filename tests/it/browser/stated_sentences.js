// Sentences of reports, with what they state (`yes`) and deny (`no`), by the findings' names; of others they say nothing. A
// function's body: `tabs.rs` runs it in the page, and gives those that are read otherwise.
const { statedIn } = await import("/assets/stated.js");

const SENTENCES = [
  ["No pneumothorax, large left pleural effusion.", ["Pleural Effusion"], ["Pneumothorax"]],
  ["There is no pneumothorax, moderate cardiomegaly and pulmonary edema.", ["Cardiomegaly", "Edema"], ["Pneumothorax"]],
  ["No longer any effusion, new consolidation.", ["Consolidation"], ["Pleural Effusion"]],
  ["The cardiac silhouette is not enlarged, the lungs show edema.", ["Edema"], ["Cardiomegaly"]],
  ["The chest tube has been removed.", [], ["Support Devices"]],
  ["Chest tube removed.", [], ["Support Devices"]],
  ["Nasogastric tube removed.", [], ["Support Devices"]],
  ["Interval removal of the right chest tube.", [], ["Support Devices"]],
  ["The effusion is smaller after the chest tube was removed.", ["Pleural Effusion"], ["Support Devices"]],
  ["Effusion: none.", [], ["Pleural Effusion"]],
  ["Pneumothorax: no. Edema: mild.", ["Edema"], ["Pneumothorax"]],
  ["Lungs: no consolidation. Heart: enlarged.", ["Cardiomegaly"], ["Consolidation"]],
  ["Effusion not seen.", [], ["Pleural Effusion"]],
  ["A pneumothorax is not identified.", [], ["Pneumothorax"]],
  ["Resolved pneumonia.", [], ["Pneumonia"]],
  ["The pneumonia has resolved.", [], ["Pneumonia"]],
  ["The pneumonia has not resolved.", ["Pneumonia"], []],
  ["The edema has partially resolved.", ["Edema"], []],
  ["The edema has resolved and effusion persists.", ["Pleural Effusion"], ["Edema"]],
  ["Edema has resolved, effusion remains.", ["Pleural Effusion"], ["Edema"]],
  ["The effusion and the pneumothorax have resolved.", [], ["Pleural Effusion", "Pneumothorax"]],
  ["Large effusion not present before.", ["Pleural Effusion"], []],
  ["A consolidation that was not seen on the prior radiograph.", ["Consolidation"], []],
  ["The heart is not normal in size.", ["Cardiomegaly"], []],
  ["The heart is normal in size.", [], ["Cardiomegaly"]],
  ["Heart size is normal, mediastinum normal.", [], ["Cardiomegaly", "Enlarged Cardiomediastinum"]],
  ["No pleural effusion, pneumothorax, or focal consolidation.", [], ["Pleural Effusion", "Pneumothorax", "Consolidation"]],
  ["No focal consolidation, large effusion, or pneumothorax is seen.", [], ["Consolidation", "Pleural Effusion", "Pneumothorax"]],
  ["No consolidation, pneumothorax or edema.", [], ["Consolidation", "Pneumothorax", "Edema"]],
  ["No effusion, pneumothorax.", [], ["Pleural Effusion", "Pneumothorax"]],
  ["No pneumothorax and a small effusion.", ["Pleural Effusion"], ["Pneumothorax"]],
  ["No pneumothorax and moderate edema.", ["Edema"], ["Pneumothorax"]],
  ["No pneumothorax, heart is enlarged.", ["Cardiomegaly"], ["Pneumothorax"]],
  ["No effusion or pneumothorax, but atelectasis at the bases.", ["Atelectasis"], ["Pleural Effusion", "Pneumothorax"]],
  ["Small left effusion, no pneumothorax.", ["Pleural Effusion"], ["Pneumothorax"]],
  ["Left lower lobe pneumonia, no effusion, mild edema.", ["Pneumonia", "Edema"], ["Pleural Effusion"]],
  ["Neither effusion nor pneumothorax.", [], ["Pleural Effusion", "Pneumothorax"]],
  ["Pneumonia cannot be excluded.", ["Pneumonia"], []],
  ["Pneumonia is unlikely.", [], ["Pneumonia"]],
  ["No change in the right effusion.", ["Pleural Effusion"], []],
  ["Unchanged right basilar atelectasis without effusion.", ["Atelectasis"], ["Pleural Effusion"]],
  ["The lungs are clear.", [], ["Lung Opacity", "Consolidation"]],
  ["The lungs are not clear.", [], []],
  ["Fractures of two ribs. The lungs have no edema.", ["Fracture"], ["Edema"]],
  ["No acute fracture, status post median sternotomy with intact sternotomy wires.", ["Support Devices"], ["Fracture"]],
  ["Endotracheal tube is not seen, nasogastric tube in place.", ["Support Devices"], []],
  ["Pulmonary edema, now resolved.", [], ["Edema"]],
  ["My own right report.", [], []],
];

const read = (text) => {
  const stated = statedIn(text);
  const of = (value) => [...stated].filter(([, said]) => said === value).map(([finding]) => finding).sort();
  return { yes: of(true), no: of(false) };
};
return SENTENCES.map(([text, yes, no]) => ({ text, is: read(text), right: { yes: yes.toSorted(), no: no.toSorted() } }))
  .filter(({ is, right }) => JSON.stringify(is) !== JSON.stringify(right));
